"""How many channels each group keeps, so that a target is met."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tfcompress.channels.dependencies import ChannelGroup, Dependencies
from tfcompress.core.graph import Node
from tfcompress.layers import cell, macs_of_nodes
from tfcompress.layers.families.attention import attention, attention_products

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
        step = round_to // math.gcd(round_to, group.width) if group.rounded else 1
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
    """The multiply-accumulates of a model as a function of its groups' widths.

    Exact but for layers that multiply in another way than by their kernels; `shrink`
    counts what it has built, and aims again.
    """

    def __init__(self, dependencies: Dependencies, groups: list[ChannelGroup]):
        self._dependencies = dependencies
        self._group_of = {m: i for i, g in enumerate(groups) for m in g.members}
        self._channels = [group.channels for group in groups]
        self._axes: dict[tuple, int] = {}
        self._table: list[np.ndarray] = []
        self._rest: list[float] = []
        costs: list[float] = []
        rows: list[list[int]] = []
        nodes = dependencies.graph.nodes
        for node, total in zip(nodes, macs_of_nodes(dependencies.graph)):
            for cost, axes in _parts(node, total, dependencies) if total else ():
                costs.append(cost)
                rows.append([self._axis(members) for members in axes])
        self.costs = np.array(costs)
        self.table = np.array(self._table).reshape(len(self._table), len(groups))
        self.rest = np.array(self._rest)
        longest = max(map(len, rows), default=0)
        # A last row of the widths that never changes pads the products.
        self.rows = np.array(
            [row + [len(self.rest)] * (longest - len(row)) for row in rows], dtype=int
        )

    def _axis(self, members: np.ndarray) -> int:
        """Returns the row that says how much of an axis is left."""
        roots = tuple(self._dependencies.roots[members.ravel()].tolist())
        if roots not in self._axes:
            self._axes[roots] = len(self._table)
            shares = np.zeros(len(self._channels))
            for root in roots:
                if root in self._group_of:
                    group = self._group_of[root]
                    # All channels of a group are alike.
                    shares[group] += 1 / self._channels[group] / len(roots)
            self._table.append(shares)
            fixed = sum(root not in self._group_of for root in roots)
            self._rest.append(fixed / max(len(roots), 1))
        return self._axes[roots]

    def __call__(self, counts: Counts) -> float:
        if not len(self.costs):
            return 0.0
        share = self.rest + self.table @ counts
        return float(self.costs @ np.append(share, 1.0)[self.rows].prod(axis=1))


def _parts(
    node: Node, total: int, dependencies: Dependencies
) -> list[tuple[float, list[np.ndarray]]]:
    """Returns what the work of a call consists of, and the axes it grows with."""
    sites = {
        (id(site.variable), site.axis): site.ids
        for site in dependencies.sites
        if site.operation is node.operation
    }
    weights = getattr(node.operation, "weights", [])
    kernels = [v for v in weights if len(v.shape) > 1]
    if not kernels:
        return [(total, _distinct_axes(node, dependencies))]
    size = sum(math.prod(kernel.shape) for kernel in kernels)
    parts = []
    if cell(node.operation, "macs") is attention:
        heads = [i for (_, axis), i in sites.items() if axis == 1][:1]
        tensors = [tuple(n or 1 for n in t.shape[1:]) for t in node.inputs]
        products = attention_products(node.operation, tensors)
        parts.append((float(products), heads))
        total -= products
    for kernel in kernels:
        axes = [i for (key, _), i in sites.items() if key == id(kernel)]
        parts.append((total * math.prod(kernel.shape) / size, axes))
    return parts


def _distinct_axes(node: Node, dependencies: Dependencies) -> list[np.ndarray]:
    """Returns the channel axes of the tensors of a product, each once."""
    axes: dict[tuple, np.ndarray] = {}
    for tensor in (*node.inputs, *node.output_tensors):
        for members in dependencies.channels[tensor].values():
            axes.setdefault(tuple(dependencies.roots[members].tolist()), members)
    return list(axes.values())
