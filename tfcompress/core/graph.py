"""A model's graph as data: trace it, change it, build a model from it.

Rewriting a model (wrapping layers, inserting quantizers, removing channels) is a
function from `Graph` to `Graph`. Nested models are inlined, so a rewrite never has
to think about their borders. Only public Keras API is used: `clone_model` calls us
back at every node.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import require_built, walk


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
    """

    operation: Any
    args: tuple
    kwargs: dict
    outputs: Any
    weights: Callable[[], list] | None = None

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
        args, kwargs = _map_tensors(
            lambda t: mapping.get(t, t), (self.args, self.kwargs)
        )
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def making(self, mapping: dict[Tensor, Tensor]) -> Node:
        """Returns this node putting out `mapping`'s values instead of its keys."""
        outputs = _map_tensors(lambda t: mapping.get(t, t), self.outputs)
        return dataclasses.replace(self, outputs=outputs)

    @property
    def output(self) -> Tensor:
        """The only output of a node that has one."""
        (output,) = _tensors(self.outputs)
        return output


@dataclasses.dataclass(eq=False)
class Graph:
    """Nodes in an order in which they can be executed."""

    name: str
    inputs: Any
    outputs: Any
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

    def fed_with(self, given: Any) -> Graph:
        """Returns the graph reading the tensors `given` instead of its inputs."""
        if isinstance(self.inputs, dict) and isinstance(given, dict):
            mapping = {self.inputs[key]: given[key] for key in self.inputs}
        else:
            mapping = dict(zip(_tensors(self.inputs), _tensors(given)))
        return self.substitute(mapping, self.nodes)

    def substitute(self, mapping: dict[Tensor, Tensor], nodes: list[Node]) -> Graph:
        """Returns the graph with `nodes`, reading `mapping`'s values for its keys."""

        return Graph(
            self.name,
            self.inputs,
            _map_tensors(lambda t: mapping.get(t, t), self.outputs),
            [node.reading(mapping) for node in nodes],
        )


def _map_tensors(function: Callable, structure: Any, kind: type = Tensor) -> Any:
    return keras.tree.map_structure(
        lambda leaf: function(leaf) if isinstance(leaf, kind) else leaf, structure
    )


def _tensors(structure: Any) -> list[Tensor]:
    return [x for x in keras.tree.flatten(structure) if isinstance(x, Tensor)]


def config_of(operation: Any) -> dict:
    """Returns the config of a layer or operation, with functions as they live.

    A lambda or a function of the user's own that is an activation need not be written
    down to be copied.
    """
    names = ("activation", "recurrent_activation")
    functions = {
        name: value
        for name in names
        if callable(value := getattr(operation, name, None))
        and not isinstance(value, keras.Layer)
        and not str(getattr(value, "__module__", None)).startswith("keras.")
    }
    if not functions:
        return operation.get_config()
    # Not copy.copy, which saves and loads a layer.
    plain = object.__new__(type(operation))
    linear = dict.fromkeys(functions, keras.activations.linear)
    vars(plain).update({**vars(operation), **linear})
    return {**plain.get_config(), **functions}


def clone_operation(operation: Any) -> Any:
    """Returns a fresh, unbuilt copy of a layer or `keras.ops` operation."""
    try:
        if isinstance(operation, keras.layers.Lambda):
            # Its code is running in this process already, so it is no less safe here.
            twin = type(operation).from_config(operation.get_config(), safe_mode=False)
            twin.function = operation.function  # with the globals that it refers to
            return twin
        return type(operation).from_config(config_of(operation))
    except Exception as error:
        reason = " ".join(str(error).strip().split("\n\n")[0].split())
        raise InvalidArgumentError(
            f"Cannot copy layer '{operation.name}' of type "
            f"{type(operation).__name__}: its config does not rebuild it ({reason}).",
            fix="implement get_config() so that cls.from_config(get_config()) works, "
            "and register the class with keras.saving.register_keras_serializable",
        ) from error


def give_weights(layer: keras.Layer, weights: list) -> None:
    """Sets the weights of a layer, and what it has computed from them."""
    layer.set_weights(weights)
    _settle(layer)


def _settle(layer: keras.Layer) -> None:
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # it computes with tensors, not with its weights


def copy_model(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers and weights that shares nothing with it.

    Nested models stay nested; `build(trace(model))` inlines them.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for _, layer in walk(copy):
        _settle(layer)
    return copy


def is_graph_model(model: Any) -> bool:
    """Returns whether `model` is Functional or Sequential (and not subclassed)."""
    if isinstance(model, keras.Sequential):
        return True
    return (
        isinstance(model, keras.Model)
        and hasattr(model, "operations")
        and getattr(model, "inputs", None) is not None
    )


def output_names(model: keras.Model) -> list[str]:
    """Returns the names of the layers that make the model's outputs."""
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    return list(model.output_names)


def trace_operations(model: keras.Model) -> Graph:
    """Returns the graph of a Functional model that may have no layers at all."""
    return _trace(model, {})


def trace_function(
    tensors: list[Tensor], function: Callable[..., list]
) -> tuple[list[Node], list[Tensor]]:
    """Returns the nodes of a function of tensors, and what they put out."""
    fresh = [keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in tensors]
    inner = trace_operations(keras.Model(fresh, function(*fresh)))
    inner = inner.substitute(dict(zip(inner.input_tensors, tensors)), inner.nodes)
    return inner.nodes, inner.output_tensors


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
    return _trace(model, {})


def trace_in_place(model: keras.Model) -> Graph:
    """As `trace`, of a throw-away model whose layers may be called once more."""
    return _trace(model, None)


def _trace(model: keras.Model, copies: dict[int, Any] | None) -> Graph:
    tensors: dict[int, Tensor] = {}
    alive: list[Any] = []  # keeps ids in `tensors` from being reused
    nodes: list[Node] = []

    def describe(symbolic: Any) -> Tensor:
        alive.append(symbolic)
        tensors[id(symbolic)] = Tensor(
            tuple(symbolic.shape),
            keras.backend.standardize_dtype(symbolic.dtype),
            symbolic.name,
        )
        return tensors[id(symbolic)]

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if copies is not None and id(operation) not in copies:
            copies[id(operation)] = clone_operation(operation)
        called = operation if copies is None else copies[id(operation)]
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
            made = _map_tensors(describe, outputs, keras.KerasTensor)
            nodes.append(Node(operation, read_args, read_kwargs, made))
        return outputs

    if isinstance(model, keras.Sequential):
        symbolic_inputs = _fresh_input(model.inputs[0])
        described = describe(symbolic_inputs)
        symbolic_outputs = symbolic_inputs
        for layer in model.layers:
            symbolic_outputs = call(layer, symbolic_outputs)
        return Graph(model.name, described, tensors[id(symbolic_outputs)], nodes)

    # The same layers, not compiled: copying a loss of the user's own may fail.
    model = keras.Model(model.input, model.output, name=model.name)
    symbolic_inputs = keras.tree.map_structure(_fresh_input, model.input)
    described = keras.tree.map_structure(describe, symbolic_inputs)
    with _deep(len(model.operations)):
        copy = keras.models.clone_model(
            model,
            input_tensors=symbolic_inputs,
            clone_function=lambda operation: operation,
            call_function=call,
        )
    outputs = keras.tree.map_structure(lambda t: tensors[id(t)], copy.output)
    return Graph(model.name, described, outputs, nodes)


@contextlib.contextmanager
def _deep(operations: int) -> Iterator[None]:
    """Inside, Python may go as deep as Keras does in a graph of so many operations."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 1000 + 4 * operations))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _fresh_input(tensor: Any) -> Any:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def unused_name(name: str, names: set[str]) -> str:
    """Returns `name`, or the first of `name_1`, `name_2` ... that is not in `names`."""
    numbered = (f"{name}_{count}" for count in itertools.count(1))
    candidates = itertools.chain([name], numbered)
    return next(one for one in candidates if one not in names)


def build(graph: Graph) -> keras.Model:
    """Returns a new Functional model that computes `graph`.

    Every operation is copied, so the model shares nothing with the one that was
    traced; weights are copied too.
    """
    made: dict[int, Any] = {}
    names = {tensor.name for tensor in _tensors(graph.inputs)}
    symbolic: dict[Tensor, Any] = {
        tensor: keras.Input(
            batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name
        )
        for tensor in _tensors(graph.inputs)
    }

    def find(structure: Any) -> Any:
        return _map_tensors(lambda t: symbolic[t], structure)

    for node in graph.nodes:
        key = id(node.operation)
        first = key not in made
        if first:
            made[key] = clone_operation(node.operation)
            # Two nested models may each have a layer of the same name.
            made[key].name = unused_name(made[key].name, names)
            names.add(made[key].name)
        outputs = made[key](*find(node.args), **find(node.kwargs))
        for tensor, output in zip(_tensors(node.outputs), keras.tree.flatten(outputs)):
            symbolic[tensor] = output
        if first and isinstance(node.operation, keras.Layer):
            if node.weights is not None:
                give_weights(made[key], node.weights())
            elif node.operation.built:
                give_weights(made[key], node.operation.get_weights())
            made[key].trainable = node.operation.trainable
    with _deep(len(graph.nodes)):
        return keras.Model(find(graph.inputs), find(graph.outputs), name=graph.name)
