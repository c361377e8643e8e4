"""The program of choosing bits: a width for each layer, under limits, at least harm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tfcompress.core.errors import InvalidArgumentError

# By path of a layer, and by its bits.
Table = Mapping[str, Mapping[int, float]]


@dataclasses.dataclass(frozen=True)
class Limit:
    """What layers may cost together.

    Attributes:
        name: what it limits, in errors.
        costs: of each layer at each width.
        most: what they may be together.
    """

    name: str
    costs: Table
    most: float

    def of(self, bits: Mapping[str, int]) -> float:
        """Returns what layers of these bits cost together."""
        return sum(self.costs[path][width] for path, width in bits.items())


def fits(limits: Sequence[Limit], bits: Mapping[str, int]) -> bool:
    """Returns whether layers of these bits are within all limits."""
    return all(limit.of(bits) <= limit.most * (1 + 1e-9) for limit in limits)


def solved(harm: Table, limits: Sequence[Limit]) -> dict[str, int] | None:
    """Returns the bits of least harm within the limits; `None` if there are none.

    Source: the integer program of Yao et al., "HAWQ-V3", 2021: with `x[l, b]` 0 or 1,
    minimize the sum of `harm[l][b] * x[l, b]` where each layer has one width and the
    sum of `cost[l][b] * x[l, b]` is at most each limit. HiGHS solves it.

    Args:
        harm: of each layer at each width.
        limits: what they may cost.

    Raises:
        InvalidArgumentError: without SciPy, which brings HiGHS.

    Example:

    >>> harm = {"a": {4: 5.0, 8: 0.0}, "b": {4: 1.0, 8: 0.0}}
    >>> bytes_ = {"a": {4: 50, 8: 100}, "b": {4: 50, 8: 100}}
    >>> solved(harm, [Limit("bytes", bytes_, 150)])
    {'a': 8, 'b': 4}
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError as error:
        raise InvalidArgumentError(
            "Bits are chosen by the solver HiGHS, which comes with SciPy.",
            received="a Python without SciPy",
            fix="pip install 'tfcompress[solver]'",
        ) from error
    cells = [(path, width) for path, row in harm.items() for width in row]
    # In units of the largest: the solver has absolute tolerances.
    costs = np.array([harm[path][width] for path, width in cells])
    costs = costs / (np.abs(costs).max() or 1.0)
    paths = np.array([path for path, _ in cells])
    one = np.array([paths == path for path in harm], float)
    constraints = [LinearConstraint(one, 1, 1)]
    for limit in limits:
        row = np.array([limit.costs[path][width] for path, width in cells])
        size = max(limit.most, float(np.abs(row).max()), 1e-12)
        constraints.append(LinearConstraint(row / size, -np.inf, limit.most / size))
    found = milp(
        costs,
        constraints=constraints,
        integrality=np.ones(len(cells)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    return {path: width for (path, width), x in zip(cells, found.x) if x > 0.5}


def greedy(harm: Table, limits: Sequence[Limit]) -> dict[str, int] | None:
    """Returns bits given up one after the other, by least harm per cost saved.

    Args:
        harm: of each layer at each width.
        limits: what they may cost.

    Example:

    >>> harm = {"a": {4: 5.0, 8: 0.0}, "b": {4: 1.0, 8: 0.0}}
    >>> bytes_ = {"a": {4: 50, 8: 100}, "b": {4: 50, 8: 100}}
    >>> greedy(harm, [Limit("bytes", bytes_, 150)])
    {'a': 8, 'b': 4}
    """
    bits = {path: max(row) for path, row in harm.items()}
    while not fits(limits, bits):
        over = [limit for limit in limits if not fits([limit], bits)]
        moves = []
        for path, width in bits.items():
            for lower in (b for b in harm[path] if b < width):
                saved = sum(
                    (limit.costs[path][width] - limit.costs[path][lower]) / limit.most
                    for limit in over
                )
                if saved > 0:
                    rise = max(harm[path][lower] - harm[path][width], 0.0)
                    moves.append((rise / saved, path, lower))
        if not moves:
            return None
        _, path, lower = min(moves)
        bits[path] = lower
    return bits
