"""Observers: the range that activations get, from a histogram of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfcompress.core.arguments import number
from tfcompress.core.configured import Configured
from tfcompress.core.registry import Registry


class Observer(Configured):
    """Base class of observers: `range_of(counts, edges, num_bits)` -> `(low, high)`.

    To write your own, override `range_of` and `get_config`, and register the class
    with `keras.saving.register_keras_serializable`.
    """

    def range_of(
        self, counts: np.ndarray, edges: np.ndarray, num_bits: int
    ) -> tuple[float, float]:
        """Returns the range; zero is added to it by whoever uses it.

        Args:
            counts: how many values fell into each bin.
            edges: the `len(counts) + 1` borders of the bins; the first and last are
                the smallest and largest value seen.
            num_bits: bits of an activation.
        """
        raise NotImplementedError


OBSERVERS: Registry[Observer] = Registry("observer", Observer)


@OBSERVERS.register("min_max")
class MinMaxObserver(Observer):
    """The smallest and the largest value.

    When to use: where no value may be clipped, and for data without outliers.

    Source: Jacob et al., 2018, section 3.1.

    Example:

    >>> MinMaxObserver().range_of(np.array([1, 0, 1]), np.array([-1., 0, 1, 2]), 8)
    (-1.0, 2.0)
    """

    def range_of(
        self, counts: np.ndarray, edges: np.ndarray, num_bits: int
    ) -> tuple[float, float]:
        return float(edges[0]), float(edges[-1])


@OBSERVERS.register("percentile")
class PercentileObserver(Observer):
    """The range that holds all but a few values on either side.

    When to use: for activations with rare outliers.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference", 2020: the
    range ends at the percentiles `100 - p` and `p` of the values seen.

    Args:
        percentile: share of the values that lie below the upper end, in per cent,
            above 50 and up to 100.

    Example:

    >>> counts, edges = np.array([0, 98, 1, 1]), np.arange(5.0)
    >>> PercentileObserver(98).range_of(counts, edges, 8)
    (1.0, 2.0)
    """

    def __init__(self, percentile: float = 99.99):
        self.percentile = number(
            percentile,
            "`percentile` is a share of the values, in per cent.",
            "(50, 100]",
            "a number above 50, up to 100",
        )

    def range_of(
        self, counts: np.ndarray, edges: np.ndarray, num_bits: int
    ) -> tuple[float, float]:
        total = counts.sum()
        outside = (1 - self.percentile / 100) * total + 1e-9
        below = np.cumsum(counts) <= outside
        above = np.cumsum(counts[::-1]) <= outside
        low = edges[int(below.sum())]
        high = edges[len(counts) - int(above.sum())]
        return float(min(low, high)), float(max(low, high))


@OBSERVERS.register("mse")
class MSEObserver(Observer):
    """The range with the least mean squared error of rounding and clipping.

    When to use: the default of `calibrate`.

    Source: Sung et al., "Resiliency of Deep Neural Networks under Quantization",
    2015: `argmin sum((q(x) - x) ** 2)` over ranges, here over 70 shares of the seen
    range for either end, the upper end first.

    Example:

    >>> counts, edges = np.array([500, 500, 0, 0, 0, 0, 0, 1]), np.arange(9.0)
    >>> MSEObserver().range_of(counts, edges, 2)[1] < 8
    True
    """

    def range_of(
        self, counts: np.ndarray, edges: np.ndarray, num_bits: int
    ) -> tuple[float, float]:
        centers = (edges[:-1] + edges[1:]) / 2
        low, high = min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)
        levels = 2**num_bits - 1

        def error(low: float, high: float) -> float:
            step = (high - low) / levels
            if step <= 0:
                return float("inf")
            rounded = np.round((np.clip(centers, low, high) - low) / step) * step + low
            return float(counts @ (rounded - centers) ** 2)

        def best(end: float, cost: Callable[[float], float]) -> float:
            return min((end * share for share in np.linspace(1.0, 0.31, 70)), key=cost)

        top = best(high, lambda end: error(low, end))
        bottom = best(low, lambda end: error(end, top))
        return float(bottom), float(top)
