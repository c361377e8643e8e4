"""How many channels each group keeps, so that a target is met."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tfcompress.core.graph import Tensor
from tfcompress.layer_rules import first_output, rule_of
from tfcompress.restructuring.dependencies import ChannelGroup, Dependencies

# Rounding of widths may miss a target by this much; more is an error.
TOLERANCE = 0.05
# Single groups are changed until the target is met this closely.
_CLOSE = 0.005
_MOST_MOVES = 100

Counts = np.ndarray
Cost = Callable[[Counts], float]


class Widths:
    """The widths that one group may have.

    Args:
        group: the group.
        round_to: widths are multiples of this; the full width always counts.
        limit: largest share of the channels that may go.

    Example:

    >>> group = ChannelGroup("conv", 20, ("conv",), ())
    >>> Widths(group, 8, 1.0).allowed
    [8, 16, 20]
    >>> Widths(group, 8, 0.5).nearest(9)
    16
    """

    def __init__(self, group: ChannelGroup, round_to: int, limit: float):
        step = round_to // math.gcd(round_to, group.width)
        # A limit of 0.3 of 10 channels means 7, whatever binary fractions say.
        least = max(1, math.ceil(group.channels * (1 - limit) - 1e-9))
        count = group.channels
        multiples = range(step, count, step)
        self.group = group
        self.allowed = [k for k in multiples if k >= least] + [count]

    def nearest(self, count: float) -> int:
        """Returns the allowed width nearest to `count`; of two, the larger."""
        return min(self.allowed, key=lambda k: (abs(k - count), -k))

    def neighbours(self, count: int) -> list[int]:
        at = self.allowed.index(count)
        return self.allowed[max(at - 1, 0) : at] + self.allowed[at + 1 : at + 2]


def uniform(widths: list[Widths], sparsity: float) -> Counts:
    """Returns the counts nearest to the same sparsity in every group."""
    return np.array([w.nearest(w.group.channels * (1 - sparsity)) for w in widths])


def meet(widths: list[Widths], cost: Cost, target: float) -> Counts:
    """Returns counts, about equally sparse, whose cost is as near as it gets.

    A bisection finds the common sparsity; what rounding leaves is made up by steps of
    single groups.

    Args:
        widths: the groups.
        cost: the cost of counts; grows with each of them.
        target: the cost that is wanted.
    """
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if cost(uniform(widths, middle)) > target:
            low = middle
        else:
            high = middle
    ends = [uniform(widths, s) for s in (low, high)]
    counts = min(ends, key=lambda c: abs(cost(c) - target))
    return _refine(widths, cost, target, counts)


def _refine(widths: list[Widths], cost: Cost, target: float, counts: Counts) -> Counts:
    error = abs(cost(counts) - target)
    for _ in range(_MOST_MOVES):
        if error <= _CLOSE * target:
            break
        best = counts
        for i, w in enumerate(widths):
            for neighbour in w.neighbours(int(counts[i])):
                moved = counts.copy()
                moved[i] = neighbour
                if abs(cost(moved) - target) < error:
                    best, error = moved, abs(cost(moved) - target)
        if best is counts:
            break
        counts = best
    return counts


class MacCost:
    """The multiply-accumulates of a model as a function of its groups' widths."""

    def __init__(self, dependencies: Dependencies, groups: list[ChannelGroup]):
        sites = dependencies.sites
        group_of = {m: i for i, g in enumerate(groups) for m in g.members}
        self.table = np.zeros((len(sites), len(groups)))
        self.rest = np.zeros(len(sites))
        for s, site in enumerate(sites):
            for one in dependencies.roots[site.ids].tolist():
                if one in group_of:
                    g = group_of[one]
                    self.table[s, g] += 1 / groups[g].channels
                else:
                    self.rest[s] += 1
        # `table` holds positions per channel, since all channels of a group are alike.
        self.full = np.array([float(len(site.ids)) for site in sites])
        self.constant = 0.0
        costs: list[float] = []
        rows: list[list[int]] = []
        for node in dependencies.graph.nodes:
            rule = rule_of(node.operation)
            if rule is None or rule.macs is None:
                continue
            shapes = [_sample(tensor) for tensor in node.inputs]
            total = rule.macs(node.operation, shapes, _sample(first_output(node)))
            kernels = [v for v in node.operation.weights if len(v.shape) > 1]
            size = sum(math.prod(v.shape) for v in kernels)
            for kernel in kernels:
                costs.append(total * math.prod(kernel.shape) / size)
                found = {
                    site.axis: s
                    for s, site in enumerate(sites)
                    if site.variable is kernel
                }
                rows.append(list(found.values()))
        self.costs = np.array(costs)
        longest = max(map(len, rows), default=0)
        # A last row of the widths that never changes pads the products.
        self.rows = np.array(
            [row + [len(sites)] * (longest - len(row)) for row in rows], dtype=int
        )

    def __call__(self, counts: Counts) -> float:
        if not len(self.costs):
            return 0.0
        share = (self.rest + self.table @ counts) / self.full
        return float(self.costs @ np.append(share, 1.0)[self.rows].prod(axis=1))


def _sample(tensor: Tensor) -> tuple[int, ...]:
    return tuple(size or 1 for size in tensor.shape[1:])
