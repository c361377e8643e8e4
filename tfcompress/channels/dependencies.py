"""The dependency graph: which channels of a model stand or fall together."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.channels import (  # noqa: F401  (they file their rules)
    kernel_flows,
    sequence_flows,
    shape_flows,
)
from tfcompress.channels.call import Call, Count, Site, run
from tfcompress.channels.channel_ids import Axes, ChannelIds
from tfcompress.channels.opening import opened
from tfcompress.core.graph import Graph, Tensor, trace
from tfcompress.core.html import html_table
from tfcompress.core.inlining import unique_names
from tfcompress.core.select import require_built, walk
from tfcompress.core.tied import tied_operations

_PURPOSE = "find the channels of the model"


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels that are interchangeable: the same layers make and read each of them.

    Attributes:
        name: the first layer that makes them; unique in a model.
        channels: how many there are. Each may stand for several positions, as a
            channel that is flattened does.
        made_by: paths of the layers whose outputs they are; more than one where
            something, such as a residual addition, ties them.
        read_by: paths of the layers that sum over them.
        fixed: why they cannot be removed; empty if they can.
        members: the class of each channel in `Dependencies`.
        width: positions that each channel takes in the layers that make it.
        rounded: whether `round_to` holds for them; not for heads and recurrent units.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a"),
    ...                           keras.layers.Dense(2, name="b")])
    >>> for group in channel_groups(model):
    ...     print(group)
    a: 4 channels; read by b
    b: 2 channels; fixed: is an output of the model
    """

    name: str
    channels: int
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    members: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    width: int = dataclasses.field(default=1, repr=False)
    rounded: bool = dataclasses.field(default=True, repr=False)

    def __str__(self) -> str:
        size = f" of {self.width} positions" if self.width > 1 else ""
        plural = "s" * (self.channels != 1)
        parts = [f"{self.name}: {self.channels} channel{plural}{size}"]
        if len(self.made_by) > 1:
            parts.append("tied: " + ", ".join(self.made_by))
        if self.read_by:
            parts.append("read by " + ", ".join(self.read_by))
        if self.fixed:
            parts.append("fixed: " + "; ".join(self.fixed))
        return "; ".join(parts)


class ChannelGroups(list[ChannelGroup]):
    """The groups of a model, which print as lines and show as a table in notebooks."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def _repr_html_(self) -> str:
        rows = [
            [
                group.name,
                f"{group.channels:,}",
                ", ".join(group.made_by),
                ", ".join(group.read_by),
                "; ".join(group.fixed),
            ]
            for group in self
        ]
        return html_table(["group", "channels", "made by", "read by", "fixed"], rows)


@dataclasses.dataclass(eq=False)
class Dependencies:
    """A traced model with the channels of all its tensors and weights.

    Attributes:
        graph: the model's graph.
        channels: the channel axes of every tensor, as ids.
        sites: the axes of weights that run over channels.
        resizes: for each operation, how its config follows.
        roots: the class of every id.
        groups: the classes, put together where they are interchangeable.
        mixed: classes that cannot be taken away without changing others.
    """

    graph: Graph
    channels: dict[Tensor, Axes]
    sites: list[Site]
    resizes: dict[int, list[Callable[[Count], dict]]]
    roots: np.ndarray
    groups: list[ChannelGroup]
    mixed: set[int]


def channel_groups(model: keras.Model) -> ChannelGroups:
    """Returns the groups of channels that `shrink` can remove, or why it cannot.

    When to use: to see what a model's structure ties together, before choosing
    filters and limits for `shrink`. Print the groups; each is one line.

    Source: the dependency groups of Fang et al., "DepGraph: Towards Any Structural
    Pruning", 2023.

    Args:
        model: a built Functional or Sequential model.

    Returns:
        A list of one `ChannelGroup` per set of interchangeable channels, in the
        model's order, which notebooks show as a table.

    Raises:
        InvalidArgumentError: for a model that is unbuilt, empty or subclassed.

    Example:

    >>> inputs = keras.Input((8, 8, 3))
    >>> x = keras.layers.Conv2D(16, 3, padding="same", name="stem")(inputs)
    >>> y = keras.layers.Conv2D(16, 3, padding="same", name="branch")(x)
    >>> x = keras.layers.Add(name="add")([x, y])
    >>> x = keras.layers.GlobalAveragePooling2D()(x)
    >>> outputs = keras.layers.Dense(10, name="head")(x)
    >>> print(channel_groups(keras.Model(inputs, outputs)))
    stem: 16 channels; tied: stem, branch; read by branch, head
    head: 10 channels; fixed: is an output of the model
    """
    return ChannelGroups(analyse(model).groups)


def analyse(model: keras.Model) -> Dependencies:
    """Returns the dependencies of all channels of `model`.

    Layers made of layers are opened: the graph is that of the layers in them.
    """
    require_built(model, _PURPOSE)
    with unique_names(model):
        graph = trace(opened(model), _PURPOSE)
    ids = ChannelIds()
    channels: dict[Tensor, Axes] = {}
    for tensor in _leaves(graph.inputs):
        channels[tensor] = {}
        size = tensor.shape[-1] if len(tensor.shape) > 1 else None
        if size:
            made = ids.fresh(size, "is an input of the model")
            channels[tensor][len(tensor.shape) - 1] = made
    calls = [run(node, ids, channels) for node in graph.nodes]
    for tensor in _leaves(graph.outputs):
        for members in channels[tensor].values():
            ids.fix(members, "is an output of the model")
    tied = tied_operations(graph)
    for call in calls:
        for site in call.sites if id(call.layer) in tied else []:
            other = tied[id(call.layer)]
            ids.fix(site.ids, f"is in a weight that '{other}' uses as well")
    sites = _tie_shared(calls, ids)
    resizes = _shared_resizes(calls, ids)
    paths = {id(layer): path for path, layer in walk(model)}
    roots = ids.roots()
    unruled = [
        Site(call.layer, None, 0, members, "output")
        for call in calls
        for members in call.unruled
    ]
    groups = _group([*sites, *unruled], roots, ids.reasons(), paths)
    return Dependencies(graph, channels, sites, resizes, roots, groups, ids.mixed())


def _leaves(structure: Any) -> list[Tensor]:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, Tensor)]


def _tie_shared(calls: list[Call], ids: ChannelIds) -> list[Site]:
    """Ties the calls of a shared layer to each other; returns each site once."""
    times = collections.Counter(id(call.layer) for call in calls)
    sites = [site for call in calls for site in call.sites]
    first: dict[tuple[int, int], Site] = {}
    found = collections.Counter[tuple[int, int]]()
    for site in sites:
        key = id(site.variable), site.axis
        found[key] += 1
        known = first.setdefault(key, site)
        if known is not site:
            ids.tie(known.ids, site.ids)
    for key, site in first.items():
        if found[key] < times[id(site.operation)]:
            name = site.operation.name
            ids.fix(site.ids, f"is read by '{name}', which also reads what stays")
    # The inputs of later calls matter where exactness is judged.
    return [
        site
        for site in sites
        if site.role == "input" or first[id(site.variable), site.axis] is site
    ]


def _shared_resizes(
    calls: list[Call], ids: ChannelIds
) -> dict[int, list[Callable[[Count], dict]]]:
    found: dict[int, list[Call]] = collections.defaultdict(list)
    for call in calls:
        found[id(call.layer)].append(call)
    for shared in found.values():
        for call in shared[1:]:
            for (ours, _), (theirs, _) in zip(shared[0].resizes, call.resizes):
                for a, b in zip(ours, theirs):
                    ids.tie(a, b)
            if len(call.resizes) != len(shared[0].resizes):
                for members, _ in (*call.resizes, *shared[0].resizes):
                    for one in members:
                        ids.fix(one, f"is shared by calls of {call.label}")
    return {
        key: [update for _, update in shared[0].resizes]
        for key, shared in found.items()
    }


def _group(
    sites: list[Site],
    roots: np.ndarray,
    reasons: dict[int, tuple[str, ...]],
    paths: dict[int, str],
) -> list[ChannelGroup]:
    appearances: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
    for index, site in enumerate(sites):
        classes, counts = np.unique(roots[site.ids], return_counts=True)
        for one, count in zip(classes.tolist(), counts.tolist()):
            appearances[one].append((index, count))
    alike: dict[tuple, list[int]] = collections.defaultdict(list)
    for one, found in appearances.items():
        alike[tuple(found), reasons.get(one, ())].append(one)

    def path(site: Site) -> str:
        return paths.get(id(site.operation), site.operation.name)

    groups, names = [], collections.Counter[str]()
    for (found, fixed), members in alike.items():
        made = dict.fromkeys(
            path(sites[i]) for i, _ in found if sites[i].role == "output"
        )
        read = dict.fromkeys(
            path(sites[i]) for i, _ in found if sites[i].role == "input"
        )
        if not made:
            continue
        widths = [n * sites[i].width for i, n in found if sites[i].role == "output"]
        name = next(iter(made))
        names[name] += 1
        groups.append(
            ChannelGroup(
                name if names[name] == 1 else f"{name}#{names[name]}",
                len(members),
                tuple(made),
                tuple(read),
                fixed,
                tuple(sorted(members)),
                int(np.gcd.reduce(widths)),
                all(sites[i].rounded for i, _ in found if sites[i].role == "output"),
            )
        )
    return groups
