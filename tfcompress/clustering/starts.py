"""Codebooks from weights: where the entries start, and k-means from there.

In one dimension clusters are intervals, so with the weights sorted once and summed up
once, a pass of k-means is a binary search per entry and touches no weight.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_MOST_PASSES = 300


def linear(ordered: np.ndarray, count: int) -> np.ndarray:
    """Returns entries at equal distances from the smallest weight to the largest."""
    return np.linspace(ordered[0], ordered[-1], count)


def density(ordered: np.ndarray, count: int) -> np.ndarray:
    """Returns entries at equal steps of the distribution, from its end to its end."""
    return np.quantile(ordered, np.linspace(0.0, 1.0, count))


def quantile(ordered: np.ndarray, count: int) -> np.ndarray:
    """Returns the medians of groups of equally many weights."""
    return np.quantile(ordered, (np.arange(count) + 0.5) / count)


def kmeans_plus_plus(ordered: np.ndarray, count: int) -> np.ndarray:
    """Returns weights drawn with the square of their distance to those drawn before.

    The draw is the same each time, so that a codebook depends on the weights alone.
    """
    generator = np.random.default_rng(0)
    chosen = [ordered[generator.integers(len(ordered))]]
    squares = np.square(ordered - chosen[0])
    while len(chosen) < count:
        shares = np.cumsum(squares)
        if shares[-1] == 0:
            break  # every weight is an entry already
        place = np.searchsorted(shares, generator.uniform(0, shares[-1]), "right")
        chosen.append(ordered[min(place, len(ordered) - 1)])
        np.minimum(squares, np.square(ordered - chosen[-1]), out=squares)
    return np.sort(chosen)


STARTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "kmeans++": kmeans_plus_plus,
    "linear": linear,
    "density": density,
    "quantile": quantile,
}


def codebook(weights: np.ndarray, count: int, start: str) -> np.ndarray:
    """Returns at most `count` values that stand for `weights` with least error.

    Weights that have no more than `count` distinct values are their own codebook.

    Args:
        weights: finite numbers, at least one.
        count: how many entries there may be.
        start: a name in `STARTS`.

    Returns:
        The entries, ascending and distinct, as float32.

    Example:

    >>> codebook(np.array([1.0, 1.2, 5.0, 5.2, 5.1]), 2, "linear").tolist()
    [1.100000023841858, 5.099999904632568]
    """
    ordered = np.sort(weights.reshape(-1).astype("float64"))
    distinct = ordered[np.r_[True, ordered[1:] != ordered[:-1]]]
    if len(distinct) <= count:
        return np.unique(distinct.astype("float32"))
    return np.unique(_lloyd(ordered, STARTS[start](ordered, count)).astype("float32"))


def nearest(weights: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Returns the index of the entry that is nearest to each weight."""
    borders = (entries[1:].astype("float64") + entries[:-1]) / 2
    return np.searchsorted(borders, weights).astype("int32")


def _lloyd(ordered: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Moves each entry to the mean of the weights nearest to it, until none moves."""
    sums = np.r_[0.0, np.cumsum(ordered)]
    previous = None
    for _ in range(_MOST_PASSES):
        borders = np.searchsorted(ordered, (entries[1:] + entries[:-1]) / 2)
        borders = np.r_[0, borders, len(ordered)]
        if previous is not None and np.array_equal(borders, previous):
            break
        previous = borders
        counts = np.diff(borders)
        # An entry that no weight is nearest to stays where it is.
        means = np.diff(sums[borders]) / np.maximum(counts, 1)
        entries = np.sort(np.where(counts > 0, means, entries))
    return entries
