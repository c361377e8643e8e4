"""Candidates of a search, and which of them no other one beats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class FrontPoint:
    """One candidate: how large it is, how good, and how fast.

    When to use: give `report(front=[...])` those that were tried; it draws the
    Pareto front through them.

    Args:
        name: what it is called.
        size: bytes, of whatever is compared: the file, or the packed file.
        metric: how good it is; more is better.
        latency: milliseconds of one call; None if not measured.
        chosen: whether this is the one that was taken.

    Example:

    >>> FrontPoint("w8a8, 80% sparse", size=41_000, metric=0.893, chosen=True).size
    41000
    """

    name: str
    size: int
    metric: float
    latency: float | None = None
    chosen: bool = False

    def dominates(self, other: FrontPoint) -> bool:
        """Whether this one is no worse in both size and metric, and better in one.

        >>> small, large = FrontPoint("a", 10, 0.9), FrontPoint("b", 20, 0.9)
        >>> small.dominates(large), large.dominates(small), small.dominates(small)
        (True, False, False)
        """
        as_good = self.size <= other.size and self.metric >= other.metric
        return as_good and (self.size < other.size or self.metric > other.metric)


def pareto_front(points: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
    """Returns the points that no other one dominates, the smallest first.

    One whose metric is NaN is on no front.

    >>> points = [FrontPoint("a", 10, 0.8), FrontPoint("b", 20, 0.9)]
    >>> [point.name for point in pareto_front([*points, FrontPoint("c", 30, 0.85)])]
    ['a', 'b']
    """
    points = [point for point in points if not math.isnan(point.metric)]
    best = [p for p in points if not any(other.dominates(p) for other in points)]
    return tuple(sorted(best, key=lambda point: (point.size, point.name)))
