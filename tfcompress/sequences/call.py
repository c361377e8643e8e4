"""A call of a layer on a part of a sequence: what the rules of the table are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.copies import clone_operation
from tfcompress.core.graph import Graph, Node, Tensor, trace_function
from tfcompress.layers import cell
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.wrapper import QuantizedLayer


class NeedsAll(Exception):
    """A rule raises it where a layer, as it is used, needs more than it has seen.

    Args:
        reason: what about the layer it is, "it looks ahead".
        fix: what the user can do about it.
    """

    def __init__(self, reason: str, fix: str):
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a sequence that a tensor holds.

    Attributes:
        count: new steps in each call.
        before: steps in front of these, which earlier calls have seen.
        merged: whether they lie along the first axis, as samples of a batch.
    """

    count: int
    before: int = 0
    merged: bool = False


class Stream:
    """What `streaming` makes of a graph, as far as it has come.

    Args:
        graph: that of the whole model.
        begins: whether a call is at the beginning of a sequence, where there are no
            states yet.
    """

    def __init__(self, graph: Graph, begins: bool):
        self.begins = begins
        self.nodes: list[Node] = []
        self.states: dict[str, Tensor] = {}
        self.next_states: dict[str, Tensor] = {}
        #: The new tensor of each of the graph, and the steps of those that have any.
        self.tensors: dict[Tensor, Tensor] = {}
        self.steps: dict[Tensor, Steps] = {}
        self._taken = {tensor.name for tensor in graph.input_tensors}
        self._changed: dict[tuple[int, str], Any] = {}
        self._makers: dict[Tensor, Node] = {}

    def add(self, *nodes: Node) -> None:
        """Adds nodes that make new tensors."""
        for node in nodes:
            self.nodes.append(node)
            self._makers.update(dict.fromkeys(node.output_tensors, node))

    def computed(
        self, function: Callable[..., Any], *tensors: Tensor, like: Tensor | None = None
    ) -> Tensor:
        """Returns what a function makes, rounded in the range of a tensor."""
        nodes, (made,) = trace_function(list(tensors), lambda *t: [function(*t)])
        self.add(*nodes)
        return made if like is None else self.rounded(made, like)

    def rounded(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Returns a tensor in the range of another one, if that is rounded."""
        maker = self._makers.get(like)
        while maker is not None and cell(maker.operation, "flow") == "select":
            maker = self._makers.get(maker.inputs[0])  # it passes numbers on
        if maker is None or not isinstance(maker.operation, FakeQuantize):
            return tensor
        made = Tensor(tensor.shape, tensor.dtype)
        self.add(dataclasses.replace(maker, args=(tensor,), outputs=made))
        return made

    def state(self, owner: str, shape: tuple, dtype: str) -> str:
        """Returns the name of a new state that calls are given, and hand on."""
        name, number = f"{owner}_state", 1
        while name in self._taken:
            number += 1
            name = f"{owner}_state_{number}"
        self._taken.add(name)
        if not self.begins:
            # As in the finalized model, whatever the training computes in.
            full = "float32" if "float" in dtype else dtype
            self.states[name] = Tensor(shape, full, name)
        return name

    def changed(self, operation: Any, **config: Any) -> dict[str, Any]:
        """Returns the fields of a node that calls a layer with another config."""
        key = id(operation), repr(config)
        if key not in self._changed:
            wrapped = isinstance(operation, QuantizedLayer)
            layer = clone_operation(operation.layer if wrapped else operation, **config)
            if wrapped:
                options = operation.quantizer, operation.one_scale
                layer = QuantizedLayer(layer, *options, trainable=operation.trainable)
            # The original is kept too, for as long as its id stands for it.
            self._changed[key] = layer, operation
        layer, _ = self._changed[key]
        weights = getattr(operation, "get_weights", None)
        built = weights if getattr(operation, "weights", None) else None
        return {"operation": layer, "weights": built, "source": None}


class Call:
    """One call of a layer or operation, on parts of sequences.

    Attributes:
        node: the call in the new graph, reading new tensors; its outputs are the old
            ones.
        layer: the layer or operation; that in a wrapper, if it is in one.
        stream: what the new graph is added to.
        steps: what the sequences that it reads hold, which is the same of all.
    """

    def __init__(self, node: Node, old: Node, stream: Stream):
        self.node, self.old, self.stream = node, old, stream
        operation = node.operation
        wrapped = isinstance(operation, QuantizedLayer)
        self.layer = operation.layer if wrapped else operation
        read = [t for t in node.inputs if t in stream.steps]
        self.input = read[0]
        self.steps = stream.steps[self.input]
        if any(stream.steps[tensor] != self.steps for tensor in read):
            raise NeedsAll(
                "it joins sequences that differ in their steps",
                "bring them to one length, from the same steps",
            )
        self.plain = [t for t in node.inputs if t not in stream.steps]

    @property
    def rank(self) -> int:
        """The number of axes of the sequence."""
        return len(self.input.shape)

    def each(self, **config: Any) -> None:
        """Lets the layer work on the steps as they are, with another config maybe."""
        self.runs(self.steps, **config)

    def runs(self, steps: Steps, source: Tensor | None = None, **config: Any) -> None:
        """Calls the layer.

        Args:
            steps: what its outputs hold.
            source: what it reads in place of its input; None for that.
            **config: what of its config is to be otherwise.
        """
        node = self.node if source is None else self.node.reading({self.input: source})
        if config:
            changes = self.stream.changed(self.node.operation, **config)
            node = dataclasses.replace(node, **changes)
        made = {old: self._like(old, steps) for old in node.output_tensors}
        self.stream.add(node.making(made))
        self.gives(list(made.values()), steps)

    def gives(self, tensors: list[Tensor], steps: Steps | None) -> None:
        """Says which new tensors are the outputs, and what steps they hold, if any."""
        for old, new in zip(self.old.output_tensors, tensors):
            self.stream.tensors[old] = new
            if steps is not None:
                self.stream.steps[new] = steps

    def with_history(self, frames: int) -> Tensor:
        """Returns the sequence with steps in front of it, which a state hands on.

        Args:
            frames: how many.
        """
        if not frames:
            return self.input
        x, stream = self.input, self.stream
        shape = (x.shape[0], frames, *x.shape[2:])
        name = stream.state(self.node.name, shape, x.dtype)
        if stream.begins:
            padding = [(0, 0), (frames, 0), *[(0, 0)] * (self.rank - 2)]
            longer = stream.computed(lambda t: ops.pad(t, padding), x, like=x)
        else:
            past = stream.rounded(stream.states[name], x)
            longer = stream.computed(
                lambda a, b: ops.concatenate([a, b], axis=1), past, x, like=x
            )
        last = stream.computed(lambda t: t[:, -frames:], longer, like=x)
        stream.next_states[name] = last
        return longer

    def _like(self, old: Tensor, steps: Steps) -> Tensor:
        """Returns a tensor as that of the whole sequence, with so many steps."""
        if steps.merged:
            return Tensor((None, *old.shape[1:]), old.dtype)
        length = steps.before + steps.count
        return Tensor((old.shape[0], length, *old.shape[2:]), old.dtype)


def name_of(operation: Any) -> str:
    """Returns the type of a layer, for messages."""
    layer = getattr(operation, "layer", operation)
    return type(layer if isinstance(layer, keras.Layer) else operation).__name__
