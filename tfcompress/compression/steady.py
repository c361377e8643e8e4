"""Measuring again until a figure stands still."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

_FEWEST, _MOST = 6, 18
_LEVEL = 0.95
_PRECISE = 0.02
_SECONDS = 30.0


def steady(measure: Callable[[], float]) -> tuple[float, float]:
    """Returns the median of some measurements, and how far off it may be.

    Measures until the error is below 2 % of the median, 18 times at most, and from the
    sixth on no longer than half a minute.

    Source: the sign test. Of `n` measurements in order, the true median lies between
    the `k`-th from below and the `k`-th from above but for a probability of
    `2 * P(B < k)`, `B` being binomial of `n` and 1/2, whatever their distribution: a
    few measurements in which the machine did something else do not count.

    Args:
        measure: makes one measurement, a number above 0.

    Example:

    >>> figures = iter([1.0, 1.01, 1.0, 5.0, 1.0, 1.01, 1.0, 1.0, 1.01])
    >>> value, error = steady(lambda: next(figures))
    >>> value, round(error, 3)
    (1.0, 0.01)
    """
    begin = time.monotonic()
    found: list[float] = []
    while True:
        found.append(measure())
        if len(found) < _FEWEST:
            continue
        value, (low, high) = statistics.median(found), _interval(sorted(found))
        error = max(value - low, high - value)
        late = time.monotonic() - begin > _SECONDS or len(found) == _MOST
        if late or error <= _PRECISE * value:
            return value, error


def _interval(ordered: list[float]) -> tuple[float, float]:
    count, below, place = len(ordered), 0, 0
    # `below`: in how many of `2 ** count` cases fewer than `place` lie on one side.
    while 2 * (below + math.comb(count, place)) <= (1 - _LEVEL) * 2**count:
        below += math.comb(count, place)
        place += 1
    return ordered[place - 1], ordered[-place]
