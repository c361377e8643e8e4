"""FakeQuantize: a layer that rounds what flows through it as the integers will."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import integer
from tfcompress.core.eager import runs_at_once
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.core.replicas import are_several, from_all
from tfcompress.layers import fill, no_products
from tfcompress.quantization.integers.grids import Grid, checked_numbers, checked_range
from tfcompress.quantization.integers.sums import half_away, is_plain
from tfcompress.quantization.rounding_operation import fake_quantized, kept_apart
from tfcompress.quantization.sequence_steps import in_loop, site_now
from tfcompress.quantization.softmax_scores import seen_by_softmax

# In steps: decides where the mean of a few integers lies half-way between two, as
# `finalize` decides it (`as_convolution`), and is far above the noise of float32.
TIE_BREAK = 0.02
# How many batches a learned range is taken from before the optimizer moves it.
_OBSERVED = 10


def rounded_layer(name: str) -> str:
    """Returns the name of the layer whose numbers a `FakeQuantize` rounds.

    >>> rounded_layer("head_quantizer_")    # there was a "head_quantizer" already
    'head'
    """
    return re.sub(r"_quantizer_*$", "", name)


def _of_all_replicas(extremes: Any) -> Any:
    """Returns the smallest and largest value of the whole batch from those here.

    Replicas cannot talk to each other inside of a loop; what has moved in one is made
    equal after it.
    """
    if in_loop() or not are_several():
        return extremes
    every = from_all(extremes)
    return ops.stack([ops.min(every[:, 0]), ops.max(every[:, 1])])


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class FakeQuantize(keras.layers.Layer):
    """Rounds activations to 8 bits in a range that it learns from the data.

    When to use: `quantize_aware` puts it where a tensor becomes integers on the
    device. It is an ordinary layer of the graph: tensors that must share one scale
    (the inputs of a Concatenate) go through the same instance.

    Source: Jacob et al., 2018. With `s = (max - min) / 255` and the range shifted a
    little so that 0 is on the grid,
    `q(x) = s * round((clip(x, min, max) - min) / s) + min`. While training, each
    `site` (call) keeps a moving average of its batches' smallest and largest values;
    the range spans those of all sites.

    Args:
        num_bits: bits of an activation: 8, or 16 for a range that is even about 0.
        fixed_range: `(min, max)` for tensors whose scale the kernels prescribe, such
            as softmax; nothing is learned then.
        nonnegative: whether values are known to be >= 0 (after ReLU): the smallest
            need not be looked for.
        sites: how many calls share the range.
        momentum: weight of the past in the moving average, in [0, 1).
        frozen: whether the range no longer moves in training.
        symmetric: whether the range is as wide below zero as above, so that zero is
            the integer 0, as some kernels want their second operand.
        learned: whether the optimizer trains the range, after ten batches that set it:
            the gradient of a bound is that of all values cut off at it (PACT, Choi et
            al., 2018, for both ends).
        rows: the axis that a softmax, and nobody else, reads the values along. The
            range then ends 12 below the smallest of the rows' largest values: a
            softmax sees no more, whatever the level of the scores.
        masked: the largest score that stands for "must not be seen", if there are any.
            They are cut off at the low end, 12 or more below what is seen.
        covers: whether the range widens at once to what a batch holds, and follows the
            average inwards only, so that hardly a value is cut off: for factors of
            whole rows, where that would scale a row.
        within: ends that the range never goes beyond, because what lies there is
            clipped by the rounding itself.
        contains: numbers that the range contains whatever the data are, such as the
            constant that a tensor is padded with.

    Example:

    >>> layer = FakeQuantize(fixed_range=(0.0, 2.55))
    >>> layer(ops.array([[0.014, 1.0, 7.0]])).numpy().round(4).tolist()
    [[0.009999999776482582, 1.0, 2.549999952316284]]
    """

    def __init__(
        self,
        num_bits: int = 8,
        fixed_range: tuple[float, float] | None = None,
        nonnegative: bool = False,
        sites: int = 1,
        momentum: float = 0.99,
        frozen: bool = False,
        *,
        symmetric: bool = False,
        learned: bool = False,
        rows: int | None = None,
        masked: float | None = None,
        covers: bool = False,
        within: Sequence[float] | None = None,
        contains: Sequence[float] = (),
        **kwargs: Any,
    ):
        self.symmetric = bool(symmetric)
        self.learned = bool(learned) and fixed_range is None
        self.rows = rows
        self.masked = masked
        self.covers = bool(covers)
        self.contains = checked_numbers("contains", contains)
        self.within = None if within is None else checked_numbers("within", within)
        # Ranges are kept and compared in full precision whatever the model computes in.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_bits = integer(num_bits, "`num_bits` of FakeQuantize.", 2, 16)
        self.fixed_range = None if fixed_range is None else checked_range(fixed_range)
        self.nonnegative = nonnegative
        self.sites = sites
        self.momentum = momentum
        self._frozen = frozen
        self.supports_masking = True

    @property
    def frozen(self) -> bool:
        """Whether the range no longer moves."""
        return self._frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._frozen = value
        if self.learned and self.built:
            self.ranges.trainable = not value

    def build(self, input_shape: Any = None) -> None:
        if self.fixed_range is None:
            common = {"initializer": "zeros", "dtype": "float32"}
            self.ranges = self.add_weight(
                shape=(self.sites, 2),
                trainable=self.learned and not self.frozen,
                name="ranges",
                **common,
            )
            self.batches = self.add_weight(
                shape=(self.sites,), trainable=False, name="batches", **common
            )

    def call(
        self,
        inputs: Any,
        site: int | None = 0,
        again: bool = False,
        training: bool = False,
    ) -> Any:
        """Rounds `inputs`.

        Args:
            inputs: a float tensor.
            site: which of the layer's calls this is; `None` = averages of numbers of
                the other sites: do not look at them, and round ties upwards.
            again: whether `inputs` were rounded before, to another scale.
            training: whether to move the range.
        """
        # Lookups of words make integers where they promise floats.
        inputs = ops.cast(inputs, "float32")
        if again:
            inputs = kept_apart(inputs)
        if self.fixed_range is not None:
            low, high = self._fixed()
        elif self.rows is not None and site is None:
            # What is chosen from these is rounded alike behind their masks, where the
            # range is found; it would never widen if they were cut off before.
            return inputs
        else:
            moved = None
            if training and not self.frozen and site is not None:
                moved = self._observe(inputs, site_now(site))
            low, high = self._span(inputs, training, moved)
        if site is None:
            inputs = inputs + TIE_BREAK / self._steps * (high - low)
        if self.learned and not self.frozen:
            # What lies outside has the gradient of the bound that it is cut off at.
            inputs = ops.minimum(ops.maximum(inputs, low), high)
            low, high = ops.stop_gradient(low), ops.stop_gradient(high)
        if self.frozen and not training and not is_plain():
            return self._as_stored(inputs, low, high)
        return fake_quantized(inputs, low, high, self.num_bits, self.is_wide)

    def _span(self, inputs: Any, training: bool, moved: Any) -> tuple[Any, Any]:
        """Returns the range that `inputs` are rounded to."""
        ranges = ops.convert_to_tensor(self.ranges) if moved is None else moved
        moving = training and not self.frozen
        if runs_at_once() and not moving and (self.frozen or self.has_range):
            # The same numbers, of which a copy is kept: most of the time of a model
            # that runs layer by layer would go into finding them.
            span = self.grid.span_of(ops.convert_to_numpy(ranges))
            return np.float32(span[0]), np.float32(span[1])
        if self.frozen or training:
            return self.grid.span(ranges)
        # Before any training there is no range yet: take the batch's own.
        return self.grid.span(
            ops.cond(
                ops.max(self.batches) > 0,
                lambda: ranges,
                lambda: ops.tile(self._batch_range(inputs)[None], (self.sites, 1)),
            )
        )

    def _as_stored(self, inputs: Any, low: Any, high: Any) -> Any:
        """Rounds to the very floats that a runtime makes of integers, `s * (q - z)`.

        TensorFlow's operation puts out `s * q + min`, which may differ in the last bit;
        a layer in float that jumps (floor, a comparison) would then jump elsewhere.
        """
        step = ops.cast((high - low) / self._steps, "float32")
        smallest, largest = ops.round(low / step), ops.round(high / step)
        if self.is_wide:
            # LiteRT's own kernels round ties away from zero.
            exact = ops.cast(inputs, "float64") / ops.cast(step, "float64")
            integers = ops.cast(half_away(exact), "float32")
            smallest = smallest - 1  # which 16 bits hold, though converters go without
        else:
            integers = ops.round(inputs / step)
        return ops.clip(integers, smallest, largest) * step

    @property
    def grid(self) -> Grid:
        """The numbers that integers can stand for here."""
        return Grid(
            self.num_bits,
            self.nonnegative,
            self.symmetric,
            self.contains,
            self.within,  # type: ignore[arg-type]
        )

    @property
    def is_wide(self) -> bool:
        """Whether integers go from -32767 to 32767, as LiteRT's 16-bit kernels want."""
        return self.grid.is_wide

    @property
    def _steps(self) -> int:
        return self.grid.steps

    def _fixed(self) -> tuple[float, float]:
        """Returns the range that kernels prescribe; that of 16 bits is even about 0."""
        assert self.fixed_range is not None
        low, high = self.fixed_range
        if not self.is_wide:
            return self.grid.with_zero(low, high)
        half = self._steps // 2
        step = 2 ** math.ceil(math.log2(max(-low, high))) / (half + 1)
        return -half * step, half * step

    def _batch_range(self, inputs: Any) -> Any:
        if self.rows is not None:
            return ops.stop_gradient(ops.stack(self._seen(inputs)))
        high = ops.max(inputs)
        low = ops.zeros_like(high) if self.nonnegative else ops.min(inputs)
        return ops.stop_gradient(ops.stack([low, high]))

    def seen_range(self, values: np.ndarray) -> tuple[float, float]:
        """Returns the ends of what is to be represented of `values`."""
        if self.rows is None:
            return float(values.min()), float(values.max())
        low, high = self._seen(ops.convert_to_tensor(values))
        return float(low), float(high)

    def _seen(self, scores: Any) -> tuple[Any, Any]:
        assert self.rows is not None
        return seen_by_softmax(scores, self.rows, self.masked)

    def _observe(self, inputs: Any, site: Any) -> Any:
        """Lets the range of a site follow a batch, and returns those of all sites."""
        # A plain mean of the first batches that turns into a moving average, or into
        # what the optimizer makes of it.
        seen, ranges = map(ops.convert_to_tensor, (self.batches, self.ranges))
        alone = self.sites == 1  # there is nothing to pick out, and to put back
        before = ranges if alone else ranges[site]
        count = seen if alone else seen[site]
        last = self.momentum
        if self.learned:
            last = ops.where(count < _OBSERVED, self.momentum, 1.0)
        after = count + 1.0
        keep = ops.minimum(last, count / after)
        extremes = _of_all_replicas(self._batch_range(inputs))
        moved = keep * before + (1.0 - keep) * extremes
        if self.covers:
            ends = ops.minimum(moved, extremes), ops.maximum(moved, extremes)
            moved = ops.where(np.array([True, False]), *ends)
        if not alone:
            here = ops.one_hot(site, self.sites)
            moved = ops.where(here[:, None] > 0, moved[None], ranges)
            after = seen + here
        self.ranges.assign(moved)
        self.batches.assign(after)
        # The optimizer moves what is read of the variable, not what was put there.
        return ops.convert_to_tensor(self.ranges) if self.learned else moved

    @property
    def has_range(self) -> bool:
        """Whether the range is fixed, or has been found in training."""
        if self.fixed_range is not None:
            return True
        return bool(ops.convert_to_numpy(self.batches).max() > 0)

    def learned_range(self) -> tuple[float, float]:
        """Returns the range that is in use.

        Raises:
            InvalidArgumentError: if the layer has not seen any data in training.
        """
        if self.fixed_range is not None:
            return self._fixed()
        if not self.has_range:
            raise InvalidArgumentError(
                f"'{self.name}' has no range yet.",
                received="a quantization-aware model that was never trained",
                expected="a model that has been through fit",
                fix="train it with fit, a few steps suffice to set the ranges",
            )
        return self.grid.span_of(ops.convert_to_numpy(self.ranges))

    def rounded(self, values: Any) -> Any:
        """Returns numbers as an array, rounded to the range that is in use."""
        low, high = self.learned_range()
        return ops.convert_to_numpy(
            fake_quantized(
                ops.convert_to_tensor(values, dtype="float32"),
                low,
                high,
                self.num_bits,
                self.is_wide,
            )
        )

    def step(self) -> float:
        """Returns the distance between two neighbouring values."""
        low, high = self.learned_range()
        return (high - low) / self._steps

    def values_between(self) -> float:
        """Returns how many steps the numbers of the data alone span."""
        ranges = ops.convert_to_numpy(self.ranges)
        return float(max(0.0, ranges.max()) - min(0.0, ranges.min())) / self.step()

    def zero_point(self) -> int:
        """Returns the signed integer that stands for zero."""
        low, _ = self.learned_range()
        return -(2 ** (self.num_bits - 1)) - round(low / self.step())

    def compute_output_shape(self, input_shape: Any, **kwargs: Any) -> Any:
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_bits": self.num_bits,
            "fixed_range": self.fixed_range,
            "nonnegative": self.nonnegative,
            "sites": self.sites,
            "momentum": self.momentum,
            "frozen": self.frozen,
            "symmetric": self.symmetric,
            "learned": self.learned,
            "rows": self.rows,
            "masked": self.masked,
            "covers": self.covers,
            "contains": self.contains,
            "within": self.within,
        }


fill((FakeQuantize,), macs=no_products)
