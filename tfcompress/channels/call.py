"""One call of an operation, as the channel rules see it, and where the rules are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np

from tfcompress.channels.channel_ids import Axes, ChannelIds
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Node, Tensor
from tfcompress.layers import fill, rows_of

Role = Literal[
    "output",  # the axis makes the channels
    "input",  # the axis is summed over
    "channel",  # one number (or small kernel) per channel: bias, gamma, depthwise
]

Count = Callable[[np.ndarray], int]  # how many of these positions are kept

NO_RULE = "which has no channel rule"

# Activations in which each channel depends on all others.
_MIXING = {"softmax", "log_softmax", "sparsemax", "glu", "polar"}


@dataclasses.dataclass(eq=False)
class Site:
    """An axis of a weight that runs over channels.

    Attributes:
        operation: the layer that holds the weight.
        variable: the weight.
        axis: which of its axes.
        ids: the channel at each position.
        role: what the axis does.
        tensor: for the role "input", the tensor whose channels are summed over.
        width: channels per position (a head of attention stands for `key_dim`).
        rounded: whether kernels are faster for widths that are round numbers; not so
            for heads of attention and units of recurrent layers.
    """

    operation: Any
    variable: Any
    axis: int
    ids: np.ndarray
    role: Role
    tensor: Tensor | None = None
    width: int = 1
    rounded: bool = True


class Call:
    """What a channel rule reads and writes.

    A rule looks at `inputs` (the channel axes of each input tensor) and sets
    `outputs`; it says with `weight` which axes of the weights run over channels, and
    with `resize` how the layer's config follows.

    Attributes:
        node: the call in the graph.
        ids: all channel ids of the model.
        inputs: the channel axes of each of `node.inputs`.
        outputs: the channel axes of each output, to be filled in by the rule.
        unruled: channels that the layer makes in a way that no rule tells.
    """

    def __init__(self, node: Node, ids: ChannelIds, inputs: list[Axes]):
        self.node = node
        self.ids = ids
        self.inputs = inputs
        self.output_tensors = [
            leaf
            for leaf in keras.tree.flatten(node.outputs)
            if isinstance(leaf, Tensor)
        ]
        self.outputs: list[Axes] = [{} for _ in self.output_tensors]
        self.sites: list[Site] = []
        self.resizes: list[tuple[tuple, Callable[[Count], dict]]] = []
        self.unruled: list[np.ndarray] = []

    @property
    def layer(self) -> Any:
        return self.node.operation

    @property
    def label(self) -> str:
        return f"'{self.layer.name}' ({type(self.layer).__name__})"

    def shape(self, index: int = 0) -> tuple[int | None, ...]:
        """Returns the shape of an input."""
        return self.node.inputs[index].shape

    def rank(self, index: int = 0) -> int:
        return len(self.shape(index))

    def channel_axis(self, index: int = 0) -> int:
        """Returns the axis that the layer's `data_format` says is the channels'."""
        last = getattr(self.layer, "data_format", None) != "channels_first"
        return self.rank(index) - 1 if last else 1

    def weight(
        self,
        variable: Any,
        axes: dict[int, np.ndarray | None],
        role: Role,
        tensor: Tensor | None = None,
        width: int = 1,
        rounded: bool = True,
    ) -> None:
        """Says which channels run along `axes` of a weight (`None`: does not exist)."""
        if variable is None:
            return
        rank = len(variable.shape)
        for axis, members in axes.items():
            if members is not None:
                self.sites.append(
                    Site(
                        self.layer,
                        variable,
                        axis % rank,
                        members,
                        role,
                        tensor,
                        width,
                        rounded,
                    )
                )

    def resize(self, update: Callable[[Count], dict], *members: np.ndarray) -> None:
        """Says how the config changes: `update(count)` returns the new entries.

        Args:
            update: gets a function that counts how many of given ids are kept.
            members: the ids it counts.
        """
        self.resizes.append((members, update))

    def fix(self, members: np.ndarray | None, reason: str) -> None:
        if members is not None:
            self.ids.fix(members, reason)

    def fix_all(self, reason: str) -> None:
        """Excludes every channel that goes into this call."""
        for axes in self.inputs:
            for members in axes.values():
                self.ids.fix(members, reason)

    def fix_other_axes(self, kept: int, reason: str, index: int = 0) -> None:
        """Excludes channels on any axis of an input but `kept`."""
        for axis, members in self.inputs[index].items():
            if axis != kept:
                self.ids.fix(members, reason)

    def activation(self, members: np.ndarray | None) -> None:
        """Excludes channels that the layer's activation mixes with each other."""
        activation = getattr(self.layer, "activation", None)
        name = getattr(activation, "__name__", type(activation).__name__).lower()
        if name in _MIXING:
            self.fix(
                members, f"is mixed with other channels by the {name} {self.label}"
            )


Flow = Callable[[Call], None]

FLOWS: dict[str, Flow] = {}
"""The rules behind the names that `LayerRule.channels` may have."""


def flow(*layer_types: type, operations: str = "") -> Callable[[Flow], Flow]:
    """Returns a decorator that files a channel rule under its name.

    Args:
        layer_types: layers that it is the rule of, in the table of layer types.
        operations: names of operations of `keras.ops`, and of layers of
            `keras.applications`, that it is the rule of.
    """

    def decorate(function: Flow) -> Flow:
        FLOWS[function.__name__] = function
        fill((*layer_types, *operations.split()), channels=function.__name__)
        return function

    return decorate


@flow()
def fixed(call: Call) -> None:
    """Nothing is known: the channels that go in stay as they are."""
    kind = type(call.layer).__name__
    call.fix_all(
        f"feeds {call.label}, {NO_RULE}; "
        f"register_layer_rule(LayerRule({kind}, channels='same')) if it treats each "
        "channel on its own"
    )
    for index, tensor in enumerate(call.output_tensors):
        size = tensor.shape[-1] if len(tensor.shape) > 1 else None
        if size:
            reason = f"comes from {call.label}, {NO_RULE}"
            made = call.ids.fresh(size, reason)
            call.outputs[index] = {len(tensor.shape) - 1: made}
            if getattr(call.layer, "weights", []):
                call.unruled.append(made)


def flow_of(operation: Any) -> Flow:
    """Returns the channel rule of a layer or `keras.ops` operation."""
    # A row without a channel rule says that there is none.
    row = next((row for row in rows_of(operation) if row.flow or row.channels), None)
    if row is None or row.channels is None:
        return fixed
    if callable(row.channels):
        return row.channels
    if row.channels not in FLOWS:
        raise InvalidArgumentError(
            f"The rule of {row.name} names no known channel rule.",
            received=repr(row.channels),
            expected=f"one of {', '.join(map(repr, sorted(FLOWS)))}, or a function",
        )
    return FLOWS[row.channels]


def run(node: Node, ids: ChannelIds, channels: dict[Tensor, Axes]) -> Call:
    """Applies the channel rule of a call, and files the channels of its outputs."""
    call = Call(node, ids, [channels[tensor] for tensor in node.inputs])
    flow_of(node.operation)(call)
    for tensor, axes in zip(call.output_tensors, call.outputs):
        channels[tensor] = {}
        for axis, members in axes.items():
            if tensor.shape[axis] == len(members):
                channels[tensor][axis] = members
            else:
                ids.fix(members, f"is reshaped by {call.label}")
    return call
