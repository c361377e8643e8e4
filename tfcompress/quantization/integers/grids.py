"""Ranges of activations, shifted so that zero is one of the numbers on their grid."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from tfcompress.core.arguments import number
from tfcompress.core.errors import InvalidArgumentError

# A range that is a single point has no scale.
SMALLEST_SPAN = 1e-5
# How far from a whole number of steps zero may be in a range that has been shifted.
_ON_GRID = 1e-3


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers that integers of so many bits can stand for.

    Attributes:
        num_bits: how many bits.
        nonnegative: whether the range begins at zero.
        symmetric: whether the range is as wide below zero as above.
        contains: numbers that are in every range.
        within: ends that no range goes beyond.
    """

    num_bits: int
    nonnegative: bool = False
    symmetric: bool = False
    contains: tuple[float, ...] = ()
    within: tuple[float, float] | None = None

    @property
    def is_wide(self) -> bool:
        """Whether integers go from -32767 to 32767, as LiteRT's 16-bit kernels want."""
        return self.num_bits > 8

    @property
    def steps(self) -> int:
        """How many steps lie between the first and the last number."""
        return 2**self.num_bits - (2 if self.is_wide else 1)

    def span(self, ranges: Any) -> tuple[Any, Any]:
        """Returns the range of all sites, shifted so that zero is on its grid.

        Ends that no data move are numbers, in the precision of the others.
        """
        low, high = self._seen(ranges)
        # Zero is in every range, also where all values are negative.
        floor = np.float32(min(0.0, 0.0, *self.contains))
        top = np.float32(max(0.0, 0.0, *self.contains))
        known = self.nonnegative
        low, larger = (floor, np.maximum) if known else (low, ops.maximum)
        if not known:
            low = ops.minimum(low, floor)
        if self.within is not None:
            low = larger(low, np.float32(self.within[0]))
            high = ops.minimum(ops.maximum(high, top), np.float32(self.within[1]))
            least = low + np.float32(SMALLEST_SPAN)
        else:
            least = larger(low + np.float32(SMALLEST_SPAN), top)
        if known and low == 0 and not (self.is_wide or self.symmetric):
            # Zero is on any grid. What is divided and multiplied by one number at once
            # is left alone by TensorFlow, which rounds otherwise.
            step = ops.maximum(high / self.steps, least / np.float32(self.steps))
            return 0.0, step * self.steps
        high = ops.maximum(high, least)
        if self.is_wide:
            high = ops.maximum(high, -low)
            return -high, high
        if self.symmetric:
            half = 2 ** (self.num_bits - 1)
            step = ops.maximum(high / (half - 1), -low / half)
            return -half * step, (half - 1) * step
        return self.with_zero(low, high)

    def _seen(self, ranges: Any) -> tuple[Any, Any]:
        """Returns the smallest and the largest number of all sites."""
        if ranges.shape[0] == 1:
            return tuple(ops.unstack(ops.reshape(ranges, (2,))))
        lows, highs = ops.unstack(ranges, axis=1)
        return ops.min(lows), ops.max(highs)

    def with_zero(self, low: Any, high: Any) -> tuple[Any, Any]:
        """Returns a range shifted so that zero is on its grid.

        A symmetric range has its zero half-way between two values, and TensorFlow and
        the converter shift it different ways unless it is shifted here.
        """
        step = (high - low) / self.steps
        exact = low / step
        first = round(exact) if isinstance(exact, float) else ops.round(exact)
        if isinstance(exact, float) and abs(exact - first) < _ON_GRID:
            return low, high  # as of a finalized model, to the last bit
        return first * step, (self.steps + first) * step

    def span_of(self, ranges: np.ndarray) -> tuple[float, float]:
        """Returns `span` of ranges that are known, as numbers."""
        return _span_of(self, ranges.tobytes())


# Rewriting a graph asks for the same range many times, of one copy of a layer after the
# other.
@functools.lru_cache(maxsize=10_000)
def _span_of(grid: Grid, ranges: bytes) -> tuple[float, float]:
    values = np.frombuffer(ranges, "float32").reshape(-1, 2)
    low, high = grid.span(ops.convert_to_tensor(values))
    return float(low), float(high)


def checked_numbers(name: str, given: Any) -> tuple[float, ...]:
    """Returns numbers that a range has to do with, or raises."""
    problem = f"`{name}` of FakeQuantize are numbers."
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | dict):
        raise InvalidArgumentError(problem, received=repr(given), expected="a tuple")
    return tuple(number(value, problem, "[-inf, inf]") for value in given)


def checked_range(limits: Any) -> tuple[float, float]:
    """Returns the two ends of a range, or raises."""
    try:
        low, high = (float(limit) for limit in limits)
    except (TypeError, ValueError):
        low, high = 0.0, -1.0
    if not low <= high:
        raise InvalidArgumentError(
            "`fixed_range` of FakeQuantize is a range.",
            received=repr(limits),
            expected="(min, max), two numbers",
        )
    return low, high
