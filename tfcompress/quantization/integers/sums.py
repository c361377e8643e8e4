"""Sums as integer kernels round them.

A product or a mean of rounded numbers is a sum of whole multiples of one number, such
as the product of the steps of its factors. In float32 it is off by far less than half
of that, so the integer that the kernel on the device adds up can be read off it, and
rounded to the next tensor's step just as the device does. Without this, the rare sum
that falls half-way between two values goes the other way in float32, and in a deep
network one such value becomes several steps at the output.

Linear layers have too many summands to be read off: see `integer_linear.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Collection, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.layers import fill, no_products

_state = threading.local()
# Bits of a factor in XNNPACK's addition.
_FACTOR_BITS = 20
# Bits of a factor in TensorFlow Lite's own kernels.
_MULTIPLIER_BITS = 31


@contextlib.contextmanager
def plain_arithmetic(exact: Collection[str] = ()) -> Iterator[None]:
    """Inside, models are traced as converters understand them: sums stay float.

    Args:
        exact: what is rounded nevertheless, in float64: "additions" of two tensors,
            "averages" of a pooling or a resized picture.
    """
    before = is_plain(), getattr(_state, "exact", ())
    _state.plain, _state.exact = True, exact
    try:
        yield
    finally:
        _state.plain, _state.exact = before


def is_plain(kind: str = "") -> bool:
    """Returns whether models are being traced for a converter.

    Args:
        kind: of sums, whether these stay float there.
    """
    return getattr(_state, "plain", False) and kind not in getattr(_state, "exact", ())


def rescaled(
    integers: Any, factor: Any, step: Any, bias: float = 0.0, zero_point: int = 0
) -> Any:
    """Returns integer sums rounded to the next tensor's step, in float32.

    Source: XNNPACK's requantization in float32: with the integer sum `n`,
    `q = round_half_even(float(n) * (s_in * s_kernel / s_out) + bias)`.

    Args:
        integers: the sums, as float32.
        factor: what turns a sum into output steps, in float32.
        step: distance between two neighbouring outputs.
        bias: in output steps; 0 where the zero point is added after rounding.
        zero_point: the integer that the outputs count from.
    """
    scaled = integers * np.asarray(factor, "float32")
    if bias or zero_point:
        scaled += np.float32(bias)
    return (ops.round(scaled) - zero_point) * np.float32(step)


def half_away(numbers: Any) -> Any:
    """Returns whole numbers, with ties away from zero.

    >>> half_away(ops.array([-2.5, 0.5, 1.4])).numpy().tolist()
    [-3.0, 1.0, 1.0]
    """
    return ops.sign(numbers) * ops.floor(ops.abs(numbers) + 0.5)


def in_fixed_point(integers: Any, factor: float) -> Any:
    """Returns whole numbers times a factor, as TensorFlow Lite's own kernels round it.

    Source: `MultiplyByQuantizedMultiplier`. With `factor = m * 2 ** e` and `m` of 31
    bits, `n = floor(x * 2 ** max(e, 0) * m + 1/2)`, and where `e < 0` that is divided
    by `2 ** -e` and rounded again, half away from zero.

    Args:
        integers: whole numbers below `2 ** 22`, as float64.
        factor: a number that is not negative.

    Example:

    >>> float(in_fixed_point(ops.array([100.0], "float64"), 0.0149)[0])   # not 1.49
    1.0
    >>> float(in_fixed_point(ops.array([100.0], "float64"), 0.014999)[0])
    2.0
    """
    fraction, exponent = math.frexp(factor)
    multiplier = round(fraction * 2.0**_MULTIPLIER_BITS) / 2.0**_MULTIPLIER_BITS
    first = ops.floor(integers * (2.0 ** max(exponent, 0) * multiplier) + 0.5)
    if exponent >= 0:
        return first
    return half_away(first * 2.0**exponent)


@dataclasses.dataclass(frozen=True)
class SumScales:
    """How an integer kernel scales what it adds up.

    Attributes:
        sum_step: distance between two neighbouring sums; `None` where the input is not
            a sum but any number.
        factor: what turns an integer sum into output steps, in float32 unless
            `fixed_point`.
        offset: what the zero points of the inputs add to the integer sum.
        bias: in output steps: what takes the offset away and adds the output's zero
            point, in float32.
        zero_point: of the output, if it is in the bias.
        fixed_point: whether the kernel multiplies integers by an integer of 31 bits,
            as `in_fixed_point` does.
        away: whether ties go away from zero.
    """

    sum_step: float | None
    factor: float
    offset: int = 0
    bias: float = 0.0
    zero_point: int = 0
    fixed_point: bool = False
    away: bool = False


def number_scales(made: Any) -> SumScales:
    """Returns the scales of any number, such as an input of the model.

    Args:
        made: the `FakeQuantize` after it.
    """
    return SumScales(None, float(np.float32(1) / np.float32(made.step())))


def clip_scales(given: Any, made: Any) -> SumScales:
    """Returns the scales of a ReLU on its own, which LiteRT rescales in fixed point.

    Args:
        given, made: the `FakeQuantize` before and after it.
    """
    ratio = np.float32(given.step()) / np.float32(made.step())
    return SumScales(given.step(), float(ratio), fixed_point=True)


def lookup_scales(made: Any) -> SumScales:
    """Returns the scales of a function that is looked up.

    Source: LiteRT's `LUTPopulate`, `q = round(f(x) * (1 / s_out))` in float32, with
    ties away from zero.

    Args:
        made: the `FakeQuantize` after it.
    """
    factor = np.float32(1) / np.float32(made.step())
    return SumScales(None, float(factor), away=True)


def mean_scales(given: Any, made: Any, count: int) -> SumScales:
    """Returns the scales of a mean.

    Source: XNNPACK's reductions: with the sum `n` of the stored integers,
    `q = round_half_even(float(n) * f + b)`, `f = s_in / s_out * (1 / count)`,
    `b = z_out - z_in * count * f`, each operation in float32. The zero points are
    inside the rounding, so they decide ties.

    Args:
        given, made: the `FakeQuantize` before and after it.
        count: numbers in a mean.
    """
    ratio = np.float32(given.step()) / np.float32(made.step())
    factor = ratio * (np.float32(1) / np.float32(count))
    offset, zero_point = given.zero_point() * count, made.zero_point()
    return SumScales(
        sum_step=given.step() / count,
        factor=float(factor),
        offset=offset,
        bias=float(np.float32(zero_point) - np.float32(offset) * factor),
        zero_point=zero_point,
    )


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class IntegerSum(keras.layers.Layer):
    """Rounds a sum to the next tensor's step as integer kernels do.

    When to use: `finalize` puts it behind means and products. Converters do not see
    it.

    Source: `rescaled`.

    Args:
        scales: `SumScales`, or a dict of its attributes.
        step: distance between two neighbouring outputs.

    Example:

    >>> layer = IntegerSum(SumScales(sum_step=0.25, factor=0.5), step=0.5)
    >>> layer(ops.array([0.2501, 0.7499])).numpy().tolist()    # sums 1 and 3
    [0.0, 1.0]
    """

    def __init__(self, scales: SumScales | dict, step: float, **kwargs: Any):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.scales = SumScales(**scales) if isinstance(scales, dict) else scales
        self.step = float(step)

    def call(self, inputs: Any) -> Any:
        if is_plain():
            return inputs
        integers, scales = inputs, self.scales
        if scales.sum_step is not None:
            exact = ops.cast(inputs, "float64") / scales.sum_step
            integers = ops.cast(ops.round(exact) + scales.offset, "float32")
        if scales.fixed_point:
            rounded = in_fixed_point(ops.cast(integers, "float64"), scales.factor)
            return ops.cast(rounded, "float32") * np.float32(self.step)
        if scales.away:
            exact = ops.cast(integers * np.float32(scales.factor), "float64")
            return ops.cast(half_away(exact), "float32") * np.float32(self.step)
        return rescaled(
            integers, scales.factor, self.step, scales.bias, scales.zero_point
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "scales": dataclasses.asdict(self.scales),
            "step": self.step,
        }


def add_integers(first: Any, second: Any, steps: Any, step: float) -> Any:
    """Returns the sum of two rounded tensors as XNNPACK's qs8-vadd rounds it.

    Source: `(a * f_a + b * f_b + 2 ** (shift - 1)) >> shift`, with factors
    `f = s_in / s_out * 2 ** shift` of 21 bits.

    Args:
        first, second: the tensors, as float numbers.
        steps: distance between two neighbouring values of each.
        step: that of the sum.
    """
    if is_plain("additions"):
        return first + second
    ratios = [np.float32(one) / np.float32(step) for one in steps]
    shift = _FACTOR_BITS - (math.frexp(max(ratios))[1] - 1)
    total: Any = 2.0 ** (shift - 1)
    for value, own, ratio in zip((first, second), steps, ratios):
        factor = float(np.rint(np.ldexp(ratio, shift)))
        integers = ops.round(ops.cast(value, "float64") * (1.0 / own))
        total = total + integers * factor
    rounded = ops.floor(total * 2.0**-shift)
    return ops.cast(rounded, "float32") * np.float32(step)


@keras.saving.register_keras_serializable(package=PACKAGE)
class IntegerAdd(layers.Add):
    """Adds two tensors as integer kernels do.

    When to use: `finalize` puts it in the place of an addition or subtraction.
    Converters see a plain one.

    Source: `add_integers`.

    Args:
        steps: distance between two neighbouring values of the two inputs.
        step: that of the output.
        subtract: whether to subtract the second input.

    Example:

    >>> layer = IntegerAdd((0.5, 0.25), 0.5)
    >>> layer([ops.array([[1.0]]), ops.array([[0.25]])]).numpy().tolist()   # 1.25
    [[1.5]]
    """

    def __init__(
        self,
        steps: tuple[float, float],
        step: float,
        subtract: bool = False,
        **kwargs: Any,
    ):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.steps, self.step, self.subtract = tuple(steps), float(step), subtract

    def call(self, inputs: Any) -> Any:
        first, second = inputs
        if not self.subtract:
            return add_integers(first, second, self.steps, self.step)
        if is_plain("additions"):
            return first - second
        return add_integers(first, -second, self.steps, self.step)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "steps": self.steps,
            "step": self.step,
            "subtract": self.subtract,
        }


fill((IntegerSum,), flow="select", macs=no_products, channels="same")
