"""Patterns: the shapes that zeros may take."""

from __future__ import annotations

import math
import re
from typing import Any

import keras
from keras import ops

from tfcompress.core.arguments import integer
from tfcompress.core.configured import Configured
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.registry import Registry
from tfcompress.core.select import exclude
from tfcompress.layers import Kernel
from tfcompress.pruning.sites import Site
from tfcompress.schedules import KeepSparsity, Schedule


class Pattern(Configured):
    """Base class of patterns: which weights are kept or dropped together.

    A pattern turns the scores of weights into scores of units (`reduce`), and a mask
    of units into a mask of weights (`expand`). Kernels that do not fit are left out
    and named.

    Attributes:
        granule: the number of units that a kernel keeps is a multiple of it.
    """

    granule = 1

    def reduce(self, scores: Any, kernel: Kernel) -> Any:
        """Returns one score per unit, the mean of its weights'.

        Args:
            scores: scores of the weights, of the kernel's shape.
            kernel: what the axes mean.
        """
        raise NotImplementedError

    def expand(self, mask: Any, shape: tuple[int, ...], kernel: Kernel) -> Any:
        """Returns the mask of weights that a mask of units means."""
        raise NotImplementedError

    def misfit(self, shape: tuple[int, ...], kernel: Kernel) -> str | None:
        """Returns why a kernel of `shape` cannot have this pattern, or `None`."""
        return None

    def is_companion(self, site: Site) -> bool:
        """Returns whether a kernel goes with another one, and has no units itself."""
        return False

    def exclusion(self, site: Site) -> str | None:
        """Returns why a kernel is left out, or `None`."""
        return self.misfit(tuple(site.variable.shape), site.kernel)

    def companions(self, site: Site) -> list[keras.Variable]:
        """Returns variables that have a value per output channel and go with it."""
        return []

    def check(self, schedule: Schedule) -> None:
        """Raises `InvalidArgumentError` if the pattern cannot follow `schedule`."""

    def fitting(self, sites: list[Site], asked_for: bool) -> list[Site]:
        """Returns the sites that can have this pattern, and names the others."""
        kept: list[Site] = []
        reasons: dict[str, list[str]] = {}
        for site in sites:
            if self.is_companion(site):
                continue
            reason = self.exclusion(site)
            if reason is None:
                kept.append(site)
            else:
                reasons.setdefault(reason, []).append(site.name)
        for reason, names in reasons.items():
            fix = "choose another pattern for these layers, or leave them out"
            exclude(names, "pruned", reason, fix, asked_for)
        if not kept:
            raise InvalidArgumentError(
                f"No kernel can have the pattern {type(self).__name__}.",
                received=", ".join(site.name for site in sites),
                fix="use pattern='unstructured' or change the layers' sizes",
            )
        return kept


PATTERNS: Registry[Pattern] = Registry("pruning pattern", Pattern)


@PATTERNS.register("unstructured")
class Unstructured(Pattern):
    """Each weight on its own.

    When to use: for the smallest file at a given accuracy. Ordinary kernels do not
    run faster for it.

    Example:

    >>> Unstructured().reduce([0.1, 0.2], Kernel("kernel"))
    [0.1, 0.2]
    """

    def reduce(self, scores: Any, kernel: Kernel) -> Any:
        return scores

    def expand(self, mask: Any, shape: tuple[int, ...], kernel: Kernel) -> Any:
        return mask


@PATTERNS.register("n_of_m")
class NOfM(Pattern):
    """Keeps `n` of each `m` neighbouring weights along the input axis.

    When to use: for hardware with N:M sparse kernels (2:4), or for zeros that are
    spread evenly. The neighbours are weights of one output channel and consecutive
    input channels, which is what a dot product in such a kernel runs over.

    Source: Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks
    From Scratch", 2021. A weight's unit score is its rank within its group, so a
    schedule that grows takes one more weight of each group at a time, and must end at
    sparsity `1 - n / m`.

    Args:
        n: how many of each group are kept, 1 <= n < m.
        m: the size of a group; the number of input channels must be a multiple.

    Example:

    >>> scores = ops.array([[0.3], [0.1], [0.2], [0.9]])
    >>> NOfM(2, 4).reduce(scores, Kernel("kernel")).numpy().ravel().tolist()
    [2.0, 0.0, 1.0, 3.0]
    """

    def __init__(self, n: int = 2, m: int = 4):
        problem = f"NOfM({n!r}, {m!r}) cannot keep n of m weights."
        expected = "whole numbers with 1 <= n < m, such as NOfM(2, 4)"
        self.m = integer(m, problem, low=2, expected=expected)
        self.n = integer(n, problem, 1, self.m - 1, expected)

    @property
    def sparsity(self) -> float:
        return 1 - self.n / self.m

    def reduce(self, scores: Any, kernel: Kernel) -> Any:
        matrix = to_matrix(scores, kernel)
        rest, inputs, outputs = matrix.shape
        groups = ops.reshape(matrix, (rest, inputs // self.m, self.m, outputs))
        groups = ops.swapaxes(groups, -1, -2)
        # Sorting twice gives each score its place in the order.
        ranks = ops.argsort(ops.argsort(groups, axis=-1), axis=-1)
        ranks = ops.reshape(ops.swapaxes(ranks, -1, -2), (rest, inputs, outputs))
        return from_matrix(ops.cast(ranks, "float32"), tuple(scores.shape), kernel)

    def expand(self, mask: Any, shape: tuple[int, ...], kernel: Kernel) -> Any:
        return mask

    def misfit(self, shape: tuple[int, ...], kernel: Kernel) -> str | None:
        if not kernel.input_axes:
            return "they have no axis of input channels for N:M"
        if _sizes(shape, kernel)[1] % self.m:
            return f"their input channels are no multiple of {self.m}"
        return None

    def check(self, schedule: Schedule) -> None:
        if isinstance(schedule, KeepSparsity):
            return
        final = float(schedule.value(ops.ones(())))
        if schedule.unit != "sparsity" or abs(final - self.sparsity) > 1e-6:
            raise InvalidArgumentError(
                f"The schedule does not end where {self.n} of {self.m} weights remain.",
                received=f"final {schedule.unit} {final:g}",
                expected=f"final sparsity {self.sparsity:g}",
            )


@PATTERNS.register("block")
class Block(Pattern):
    """Keeps or drops rectangles of neighbouring weights.

    When to use: for kernels that run faster on blocks (1x4 and 16x1 are common), or
    to spend fewer bits on the places of zeros.

    Source: Gray et al., "GPU Kernels for Block-Sparse Weights", 2017. A block's score
    is the mean of its weights' (the sum, for criteria that measure the loss).

    Args:
        shape: input channels x output channels of a block; the kernel's must be
            multiples of these. Each position of a convolution's window has blocks of
            its own.

    Example:

    >>> scores = ops.array([[1.0, 3.0, 0.0, 0.0], [5.0, 7.0, 2.0, 2.0]])
    >>> Block((1, 2)).reduce(scores, Kernel("kernel")).numpy().tolist()
    [[[2.0, 0.0], [6.0, 2.0]]]
    """

    def __init__(self, shape: tuple[int, int] = (1, 4)):
        problem = "`shape` of a Block must be two positive sizes."
        expected = "(input channels, output channels), such as (1, 4)"
        if not isinstance(shape, list | tuple) or len(shape) != 2:
            raise InvalidArgumentError(problem, received=repr(shape), expected=expected)
        high, wide = (integer(s, problem, low=1, expected=expected) for s in shape)
        self.shape = high, wide

    def reduce(self, scores: Any, kernel: Kernel) -> Any:
        matrix = to_matrix(scores, kernel)
        rest, inputs, outputs = matrix.shape
        high, wide = self.shape
        blocks = ops.reshape(
            matrix, (rest, inputs // high, high, outputs // wide, wide)
        )
        return ops.mean(blocks, axis=(2, 4))

    def expand(self, mask: Any, shape: tuple[int, ...], kernel: Kernel) -> Any:
        high, wide = self.shape
        matrix = ops.repeat(ops.repeat(mask, high, axis=1), wide, axis=2)
        return from_matrix(matrix, shape, kernel)

    def misfit(self, shape: tuple[int, ...], kernel: Kernel) -> str | None:
        if not kernel.input_axes:
            return "they have no axis of input channels for blocks"
        _, inputs, outputs = _sizes(shape, kernel)
        if inputs % self.shape[0] or outputs % self.shape[1]:
            return "their channels are no multiples of {}x{}".format(*self.shape)
        return None


@PATTERNS.register("channel")
class Channel(Pattern):
    """Keeps or drops whole output channels.

    When to use: to make a model faster everywhere: `shrink(model)` afterwards removes
    the channels that are zero. With a channel go its bias and the scale and offset of
    the BatchNormalization that reads the layer, so that it puts out zero; with a unit
    of an LSTM or GRU go all its gates and recurrent weights. Rows are the channels of
    an Embedding. The channels of the model's outputs are left alone.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", 2017. A channel's
    score is the mean of its weights' (the sum, for criteria that measure the loss).

    Args:
        round_to: a kernel keeps a multiple of this many channels, rounded up; 8 suits
            vector units.

    Example:

    >>> Channel().reduce(ops.array([[1.0, 0.0], [3.0, 0.5]]), Kernel("k")).numpy()
    array([2.  , 0.25], dtype=float32)
    """

    def __init__(self, round_to: int = 8):
        problem = "`round_to` must be a positive number of channels."
        self.round_to = self.granule = integer(round_to, problem, low=1)

    def reduce(self, scores: Any, kernel: Kernel) -> Any:
        axes = kernel.reduction_axes(len(scores.shape))
        gates = ops.reshape(ops.mean(scores, axis=axes), (kernel.gates, -1))
        return ops.mean(gates, axis=0)

    def expand(self, mask: Any, shape: tuple[int, ...], kernel: Kernel) -> Any:
        kept = {axis % len(shape) for axis in kernel.output_axes}
        inner = [size if axis in kept else 1 for axis, size in enumerate(shape)]
        return ops.broadcast_to(ops.reshape(ops.tile(mask, kernel.gates), inner), shape)

    def misfit(self, shape: tuple[int, ...], kernel: Kernel) -> str | None:
        channels = math.prod(shape[axis] for axis in kernel.output_axes) // kernel.gates
        if channels <= self.round_to:
            return f"they have no more than round_to={self.round_to} channels"
        return None

    def is_companion(self, site: Site) -> bool:
        return site.kernel.attribute == "cell.recurrent_kernel"

    def exclusion(self, site: Site) -> str | None:
        if site.kernel.input_axes and site.makes_output():
            return "their channels are the model's outputs"
        return super().exclusion(site)

    def companions(self, site: Site) -> list[keras.Variable]:
        layer, name = site.layer, site.kernel.attribute
        if name == "embeddings" or name == "depthwise_kernel":
            return []
        if name.startswith("cell."):
            found = [layer.cell.recurrent_kernel, layer.cell.bias]
        else:
            norm = site.batch_norm()
            found = [getattr(layer, "bias", None)]
            found += [norm.gamma, norm.beta] if norm is not None else []
        return [v for v in found if v is not None and v.trainable]


def pattern_of(identifier: Pattern | dict | str) -> Pattern:
    """Returns the pattern that an instance, a config, a name or a ratio means.

    Example:

    >>> pattern_of("2:4"), pattern_of("channel")
    (NOfM(), Channel())
    """
    ratio = re.fullmatch(
        r"(\d+):(\d+)", identifier if isinstance(identifier, str) else ""
    )
    return NOfM(int(ratio[1]), int(ratio[2])) if ratio else PATTERNS.get(identifier)


def to_matrix(values: Any, kernel: Kernel) -> Any:
    """Returns a kernel's values as (window, input channels, output channels)."""
    order = _order(len(values.shape), kernel)
    shape = _sizes(tuple(values.shape), kernel)
    return ops.reshape(ops.transpose(values, order), shape)


def from_matrix(matrix: Any, shape: tuple[int, ...], kernel: Kernel) -> Any:
    """Undoes `to_matrix` for a kernel of `shape`."""
    order = _order(len(shape), kernel)
    values = ops.reshape(matrix, tuple(shape[axis] for axis in order))
    return ops.transpose(values, tuple(order.index(axis) for axis in range(len(shape))))


def _order(rank: int, kernel: Kernel) -> list[int]:
    inputs = [axis % rank for axis in kernel.input_axes]
    outputs = [axis % rank for axis in kernel.output_axes]
    window = [axis for axis in range(rank) if axis not in inputs + outputs]
    return [*window, *inputs, *outputs]


def _sizes(shape: tuple[int, ...], kernel: Kernel) -> tuple[int, int, int]:
    inputs = math.prod(shape[axis] for axis in kernel.input_axes)
    outputs = math.prod(shape[axis] for axis in kernel.output_axes)
    return math.prod(shape) // (inputs * outputs), inputs, outputs
