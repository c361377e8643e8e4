"""Codebooks from weights: where the entries start, and k-means from there.

In one dimension clusters are intervals, so with the weights sorted once and summed up
once, a pass of k-means is a binary search per entry and touches no weight. Weights are
many and doubles twice as large: only of a block of them are there any at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

_MOST_PASSES = 300
_BLOCK = 2**16
# How many weights lie between sums that are kept.
_BETWEEN = 2**11


def linear(ordered: np.ndarray, count: int) -> np.ndarray:
    """Returns entries at equal distances from the smallest weight to the largest."""
    return np.linspace(float(ordered[0]), float(ordered[-1]), count)


def density(ordered: np.ndarray, count: int) -> np.ndarray:
    """Returns entries at equal steps of the distribution, from its end to its end."""
    return np.quantile(ordered.astype("float64"), np.linspace(0.0, 1.0, count))


def quantile(ordered: np.ndarray, count: int) -> np.ndarray:
    """Returns the medians of groups of equally many weights."""
    shares = (np.arange(count) + 0.5) / count
    return np.quantile(ordered.astype("float64"), shares)


def kmeans_plus_plus(ordered: np.ndarray, count: int) -> np.ndarray:
    """Returns weights drawn with the square of their distance to those drawn before.

    The draw is the same each time, so that a codebook depends on the weights alone.
    """
    generator = np.random.default_rng(0)
    size = len(ordered)
    chosen = [float(ordered[generator.integers(size)])]
    while len(chosen) < count:
        entries = np.sort(chosen)
        ends, pieces = zip(*_running_squares(ordered, entries))
        if ends[-1] == 0:
            break  # every weight is an entry already
        share = generator.uniform(0, ends[-1])
        piece = min(int(np.searchsorted(ends, share, "right")), len(ends) - 1)
        before = ends[piece - 1] if piece else 0.0
        shares = _running(_squares(ordered, *pieces[piece]), before)
        start = pieces[piece][0]
        place = start + int(np.searchsorted(shares, share, "right"))
        chosen.append(float(ordered[min(place, size - 1)]))
    return np.sort(chosen)


def _running_squares(
    ordered: np.ndarray, entries: np.ndarray
) -> Iterator[tuple[float, tuple[int, int, float]]]:
    """Yields pieces that are nearest to one entry each, and the sums up to their ends.

    A sum is that of the squared distances of all weights to the entry they are nearest
    to; a piece is where it begins and ends, and the entry.
    """
    borders = _places(ordered, (entries[1:] + entries[:-1]) / 2)
    blocks = np.arange(0, len(ordered), _BLOCK)
    edges = np.unique(np.r_[blocks, borders, len(ordered)])
    total = 0.0
    for start, end in pairwise(edges.tolist()):
        entry = float(entries[np.searchsorted(borders, start, "right")])
        total = float(_running(_squares(ordered, start, end, entry), total)[-1])
        yield total, (start, end, entry)


def _squares(ordered: np.ndarray, start: int, end: int, entry: float) -> np.ndarray:
    return np.square(ordered[start:end].astype("float64") - entry)


def _running(values: np.ndarray, before: float) -> np.ndarray:
    """Returns the sums up to each of some values, with what lies before them."""
    values[0] += before
    return np.cumsum(values)


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
    ordered = np.sort(weights, axis=None)
    if 1 + np.count_nonzero(ordered[1:] != ordered[:-1]) <= count:
        return np.unique(ordered).astype("float32")
    return np.unique(_lloyd(ordered, STARTS[start](ordered, count)).astype("float32"))


def nearest(
    weights: np.ndarray, entries: np.ndarray, dtype: Any = "int32"
) -> np.ndarray:
    """Returns the index of the entry that is nearest to each weight."""
    borders = (entries[1:].astype("float64") + entries[:-1]) / 2
    found = np.empty(weights.size, dtype)
    for start in range(0, weights.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        found[block] = np.searchsorted(borders, weights.reshape(-1)[block])
    return found.reshape(weights.shape)


def _places(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns how many of the ordered weights are below each value.

    Compared are numbers of the weights' own type, or else all weights would be copied.
    """
    own = values.astype(ordered.dtype)
    own = np.where(own < values, np.nextafter(own, np.inf, dtype=own.dtype), own)
    return np.searchsorted(ordered, own)


class _Sums:
    """Sums of the first so many of some numbers, added up in doubles one by one."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers
        self.kept = [0.0]
        for start in range(0, len(numbers), _BETWEEN):
            self.kept.append(self._up_to(start, start + _BETWEEN))

    def of_first(self, counts: np.ndarray) -> np.ndarray:
        starts = counts // _BETWEEN * _BETWEEN
        return np.array([self._up_to(*pair) for pair in zip(starts, counts)])

    def _up_to(self, start: int, end: int) -> float:
        before = self.kept[start // _BETWEEN]
        if start == end:
            return before
        return float(_running(self.numbers[start:end].astype("float64"), before)[-1])


def _lloyd(ordered: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Moves each entry to the mean of the weights nearest to it, until none moves."""
    sums = _Sums(ordered)
    previous = None
    for _ in range(_MOST_PASSES):
        borders = _places(ordered, (entries[1:] + entries[:-1]) / 2)
        borders = np.r_[0, borders, len(ordered)]
        if previous is not None and np.array_equal(borders, previous):
            break
        previous = borders
        counts = np.diff(borders)
        # An entry that no weight is nearest to stays where it is.
        means = np.diff(sums.of_first(borders)) / np.maximum(counts, 1)
        entries = np.sort(np.where(counts > 0, means, entries))
    return entries
