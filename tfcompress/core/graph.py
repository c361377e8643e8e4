"""A model's graph as data: trace it, change it, build a model from it.

Rewriting a model (wrapping layers, inserting quantizers, removing channels) is a
function from `Graph` to `Graph`. Nested models are inlined, so a rewrite never has
to think about their borders. Only public Keras API is used: `clone_model` calls us
back at every node.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from tfcompress.core.copies import Copies, clone_operation, copy_state, give_weights
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.predictable import stand_in
from tfcompress.core.select import is_graph_model, require_built, unused_name
from tfcompress.core.types import AnyTensor, Structure


@dataclasses.dataclass(eq=False)
class Tensor:
    """One symbolic tensor: what flows along an edge of the graph."""

    shape: tuple[int | None, ...]
    dtype: str
    name: str = ""


@dataclasses.dataclass(eq=False)
class Node:
    """One call of an operation.

    Attributes:
        operation: the layer (or `keras.ops` operation) that is called. Nodes that
            share it share its weights.
        args, kwargs: the call's arguments, with `Tensor` where tensors go.
        outputs: the structure of `Tensor` that the call returns.
        weights: returns the weights for the new layer; by default those of
            `operation` itself, if it has been built.
        source: the layer whose state the new layer gets; by default `operation`.
    """

    operation: Any
    args: tuple
    kwargs: dict
    outputs: Structure
    weights: Callable[[], list] | None = None
    source: Any = None

    @property
    def name(self) -> str:
        return self.operation.name

    @property
    def inputs(self) -> list[Tensor]:
        return _tensors((self.args, self.kwargs))

    @property
    def output_tensors(self) -> list[Tensor]:
        return _tensors(self.outputs)

    def reading(self, mapping: dict[Tensor, Tensor]) -> Node:
        """Returns this node reading `mapping`'s values instead of its keys."""
        args, kwargs = map_tensors(
            lambda t: mapping.get(t, t), (self.args, self.kwargs)
        )
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def making(self, mapping: dict[Tensor, Tensor]) -> Node:
        """Returns this node putting out `mapping`'s values instead of its keys."""
        outputs = map_tensors(lambda t: mapping.get(t, t), self.outputs)
        return dataclasses.replace(self, outputs=outputs)

    @property
    def keeps_weights(self) -> bool:
        """Whether the new layer has the very weights of `operation`."""
        owner = getattr(self.weights, "__self__", None)
        wrapped = getattr(self.operation, "layer", None)
        return self.weights is None or owner in (self.operation, wrapped)

    @property
    def output(self) -> Tensor:
        """The only output of a node that has one."""
        (output,) = _tensors(self.outputs)
        return output


@dataclasses.dataclass(eq=False)
class Graph:
    """Nodes in an order in which they can be executed."""

    name: str
    inputs: Structure
    outputs: Structure
    nodes: list[Node]

    @property
    def input_tensors(self) -> list[Tensor]:
        return _tensors(self.inputs)

    @property
    def output_tensors(self) -> list[Tensor]:
        return _tensors(self.outputs)

    def producers(self) -> dict[Tensor, Node]:
        """Maps each tensor to the node that makes it (inputs are absent)."""
        return {t: node for node in self.nodes for t in _tensors(node.outputs)}

    def consumers(self) -> dict[Tensor, list[Node]]:
        """Maps each tensor to the nodes that read it."""
        table: dict[Tensor, list[Node]] = {}
        for node in self.nodes:
            for tensor in node.inputs:
                table.setdefault(tensor, []).append(node)
        return table

    def calls(self) -> dict[int, list[Node]]:
        """Maps the `id` of each operation to its calls."""
        table: dict[int, list[Node]] = {}
        for node in self.nodes:
            table.setdefault(id(node.operation), []).append(node)
        return table

    def with_operations(self, change: Callable[[Node], dict[str, Any]]) -> Graph:
        """Returns the graph with changed operations, see `with_operations`."""
        return dataclasses.replace(self, nodes=with_operations(self.nodes, change))

    def flat_map(self, function: Callable[[Node], Iterable[Node]]) -> Graph:
        """Returns the graph with the nodes that `function` returns for each."""
        nodes = [part for node in self.nodes for part in function(node)]
        return dataclasses.replace(self, nodes=nodes)

    def fed_with(self, given: Any) -> Graph:
        """Returns the graph reading the tensors `given` instead of its inputs."""
        if isinstance(self.inputs, dict) and isinstance(given, dict):
            mapping = {self.inputs[key]: given[key] for key in self.inputs}
        else:
            mapping = dict(zip(_tensors(self.inputs), _tensors(given)))
        return self.substitute(mapping, self.nodes)

    def without_unread(self, droppable: set[Node]) -> Graph:
        """Returns the graph without those of `droppable` whose outputs nobody reads."""
        kept: list[Node] = []
        wanted = set(self.output_tensors)
        for node in reversed(self.nodes):
            if node not in droppable or wanted.intersection(node.output_tensors):
                kept.append(node)
                wanted.update(node.inputs)
        return dataclasses.replace(self, nodes=kept[::-1])

    def substitute(
        self, mapping: dict[Tensor, Tensor], nodes: list[Node] | None = None
    ) -> Graph:
        """Returns the graph reading `mapping`'s values for its keys.

        Args:
            mapping: what is read instead of what.
            nodes: the nodes of the new graph; by default those of this one.
        """
        return Graph(
            self.name,
            self.inputs,
            map_tensors(lambda t: mapping.get(t, t), self.outputs),
            [
                node.reading(mapping)
                for node in (self.nodes if nodes is None else nodes)
            ],
        )


def with_operations(
    nodes: list[Node], change: Callable[[Node], dict[str, Any]]
) -> list[Node]:
    """Returns nodes with changed operations; what calls share, they go on sharing.

    Args:
        nodes: calls of operations.
        change: returns the fields of `Node` that are to be others in all calls of an
            operation. It is given the first of them.
    """
    changes: dict[int, dict[str, Any]] = {}
    for node in nodes:
        if id(node.operation) not in changes:
            changes[id(node.operation)] = change(node)
    return [dataclasses.replace(n, **changes[id(n.operation)]) for n in nodes]


def map_tensors(
    function: Callable, structure: Structure, kind: type = Tensor
) -> Structure:
    """Returns a structure with what `function` returns for each of its tensors."""
    return keras.tree.map_structure(
        lambda leaf: function(leaf) if isinstance(leaf, kind) else leaf, structure
    )


def _tensors(structure: Structure) -> list[Tensor]:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, Tensor)]


def output_names(model: keras.Model) -> list[str]:
    """Returns the names of the layers that make the model's outputs."""
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    return list(model.output_names)


def trace_operations(model: keras.Model) -> Graph:
    """Returns the graph of a Functional model that may have no layers at all."""
    return _trace(model, Copies())


def trace_function(
    tensors: list[Tensor], function: Callable[..., list]
) -> tuple[list[Node], list[Tensor]]:
    """Returns the nodes of a function of tensors, and what they put out."""
    inputs, symbolic = symbolic_inputs(tensors)
    model = keras.Model([*inputs.values()], function(*symbolic))
    inner = trace_operations(model).fed_with([*inputs])
    return inner.nodes, inner.output_tensors


def symbolic_inputs(structure: Structure) -> tuple[dict[Tensor, AnyTensor], Structure]:
    """Returns a fresh input for each tensor of a structure, and that of the inputs."""
    inputs = {
        tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
        for tensor in _tensors(structure)
    }
    return inputs, map_tensors(inputs.__getitem__, structure)


def trace(model: keras.Model, purpose: str = "read the graph of the model") -> Graph:
    """Returns the graph of a Functional or Sequential model, nested ones inlined.

    The model is not touched: the graph is found by calling throw-away copies of
    its layers.

    Raises:
        InvalidArgumentError: for a model that is unbuilt, empty or subclassed.
    """
    require_built(model, purpose)
    if not is_graph_model(model):
        raise InvalidArgumentError(
            f"Cannot {purpose}: '{model.name}' is a subclassed model.",
            received=type(model).__name__,
            expected="a Functional or Sequential model",
            fix="build the same layers with the Functional API: "
            "keras.Model(inputs, outputs)",
        )
    return _trace(model, Copies())


def trace_in_place(model: keras.Model) -> Graph:
    """As `trace`, of a throw-away model whose layers may be called once more."""
    return _trace(model, None)


def _trace(model: keras.Model, copies: Copies | None) -> Graph:
    tensors: dict[int, Tensor] = {}
    alive: list[Any] = []  # keeps ids in `tensors` from being reused
    nodes: list[Node] = []

    def describe(symbolic: Any) -> Tensor:
        alive.append(symbolic)
        tensors[id(symbolic)] = _described(symbolic)
        return tensors[id(symbolic)]

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if copies is None:
            called = operation
        else:
            called = stand_in(operation, args, kwargs) or copies.of(operation)
        outputs = called(*args, **kwargs)
        read_args, read_kwargs = keras.tree.map_structure(
            lambda leaf: tensors.get(id(leaf), leaf), (args, kwargs)
        )
        if is_graph_model(operation):
            given = read_args[0] if read_args else read_kwargs["inputs"]
            inner = _trace(operation, copies).fed_with(given)
            nodes.extend(inner.nodes)
            for outside, inside in zip(
                keras.tree.flatten(outputs), _tensors(inner.outputs)
            ):
                alive.append(outside)
                tensors[id(outside)] = inside
        else:
            described = map_tensors(describe, outputs, keras.KerasTensor)
            nodes.append(Node(operation, read_args, read_kwargs, described))
        return outputs

    if isinstance(model, keras.Sequential):
        fresh_inputs = _fresh_input(model.inputs[0])
        described = describe(fresh_inputs)
        symbolic_outputs = fresh_inputs
        for layer in model.layers:
            symbolic_outputs = call(layer, symbolic_outputs)
        return Graph(model.name, described, tensors[id(symbolic_outputs)], nodes)

    fresh_inputs = keras.tree.map_structure(_fresh_input, model.input)
    described = keras.tree.map_structure(describe, fresh_inputs)
    with _deep(len(model.operations)):
        # The same layers, not compiled: copying a loss of the user's own may fail.
        model = keras.Model(model.input, model.output, name=model.name)
        copy = keras.models.clone_model(
            model,
            input_tensors=fresh_inputs,
            clone_function=lambda operation: operation,
            call_function=call,
        )
    outputs = keras.tree.map_structure(lambda t: tensors[id(t)], copy.output)
    return Graph(model.name, described, outputs, nodes)


def _described(symbolic: Any) -> Tensor:
    dtype = keras.backend.standardize_dtype(symbolic.dtype)
    return Tensor(tuple(symbolic.shape), dtype, symbolic.name)


@contextlib.contextmanager
def _deep(operations: int) -> Iterator[None]:
    """Inside, Python may go as deep as Keras does in a graph of so many operations."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 1000 + 4 * operations))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _fresh_input(tensor: AnyTensor) -> AnyTensor:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def build(graph: Graph) -> keras.Model:
    """Returns a new Functional model that computes `graph`.

    Every operation is copied, with all its state, so the model shares nothing with
    the one that was traced. Layers that are held by others are copied once.
    """
    return built(graph)[0]


def built(graph: Graph) -> tuple[keras.Model, Graph]:
    """As `build`, with the graph of the new model, which then needs no `trace`."""
    copies = Copies()
    made: dict[int, Any] = {}
    names = {tensor.name for tensor in graph.input_tensors}
    symbolic = {tensor: _fresh_input(tensor) for tensor in graph.input_tensors}

    def find(structure: Structure) -> Structure:
        return map_tensors(lambda t: symbolic[t], structure)

    for node in graph.nodes:
        key = id(node.operation)
        first = key not in made
        if first:
            # What gets other weights is no longer what others may hold.
            keeps = node.keeps_weights and node.source is None
            copy = copies.of if keeps else clone_operation
            made[key] = copy(node.operation)
            # Two nested models may each have a layer of the same name.
            made[key].name = unused_name(made[key].name, names)
            names.add(made[key].name)
        outputs = made[key](*find(node.args), **find(node.kwargs))
        for tensor, output in zip(_tensors(node.outputs), keras.tree.flatten(outputs)):
            symbolic[tensor] = output
        if first and isinstance(node.operation, keras.Layer):
            copy_state(node.source or node.operation, made[key])
            if node.weights is not None:
                give_weights(made[key], node.weights())
    with _deep(len(graph.nodes)):
        model = keras.Model(find(graph.inputs), find(graph.outputs), name=graph.name)
    return model, _with_parts(graph, made, symbolic)


def _with_parts(
    graph: Graph, made: dict[int, Any], symbolic: dict[Tensor, AnyTensor]
) -> Graph:
    """Returns `graph` with the operations and tensors that were made of its own."""
    tensors = {tensor: _described(found) for tensor, found in symbolic.items()}
    nodes = [
        Node(made[id(node.operation)], node.args, node.kwargs, node.outputs)
        .reading(tensors)
        .making(tensors)
        for node in graph.nodes
    ]
    inputs, outputs = map_tensors(tensors.__getitem__, (graph.inputs, graph.outputs))
    return Graph(graph.name, inputs, outputs, nodes).without_unread(set(nodes))
