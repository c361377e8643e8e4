"""macs: the multiply-accumulates of a model, or an error that says what has none known.

A layer is counted by its row in the table, by what it holds, or by what its `call`
does; an operation of `keras.ops` by its own row. There is no default.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import UnsupportedLayerError, one_line
from tfcompress.core.graph import (
    Graph,
    Node,
    Tensor,
    is_graph_model,
    trace,
    trace_operations,
)
from tfcompress.core.inlining import graph_of_call
from tfcompress.layers.rules import Unknown, cell, rows_of

_PURPOSE = "count the MACs of the model"


@dataclasses.dataclass(frozen=True)
class _Place:
    """Which layers a call stands in, from the outermost, and whether they are copies.

    A copy may be changed and called again; the layers of a user's model may not.
    """

    layers: tuple = ()
    copied: bool = False

    def inside(self, layer: Any, copied: bool) -> _Place:
        return _Place((*self.layers, layer), copied or self.copied)


def macs(model: keras.Model) -> int:
    """Returns the multiply-accumulates of one sample through `model`.

    When to use: to compare the cost of two models before any runtime is at hand.
    Products that one operation multiplies and sums are counted: matrix products and
    convolutions, in layers, in `keras.ops` and in what your own layers call.
    Elementwise products, sums, lookups and one-hot encodings count as none, a
    transposed convolution as many as the convolution that it is the transpose of.
    Free dimensions other than the batch count as 1.

    Args:
        model: a built Functional or Sequential model.

    Raises:
        InvalidArgumentError: for a model that is unbuilt, empty or subclassed.
        UnsupportedLayerError: for a layer whose work is not known, by name.

    Example:

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    >>> macs(model)        # 6 * 6 outputs, 3 * 3 * 3 weights, 4 channels
    3888
    """
    if isinstance(model, keras.Sequential) or not is_graph_model(model):
        return sum(macs_of_nodes(trace(model, _PURPOSE)))
    return sum(macs_of_nodes(trace_operations(model)))  # which may have no layers


def macs_of_nodes(graph: Graph) -> list[int]:
    """Returns the multiply-accumulates of one sample in each call of a graph.

    Raises:
        UnsupportedLayerError: for a layer whose work is not known, by name.
    """
    batch = next((t.shape[0] for t in graph.input_tensors if t.shape[0]), 1)
    given = [
        keras.KerasTensor((t.shape[0] or batch, *t.shape[1:]), t.dtype)
        for t in graph.input_tensors
    ]
    return [round(count / batch) for count in _through(graph, given, _Place())[0]]


def _through(graph: Graph, given: list, place: _Place) -> tuple[list[int], Any]:
    """Returns the count of each node, and the outputs, for inputs of these shapes.

    Shapes are followed with a batch of one sample, since an operation may merge the
    batch with other axes (windows of an image, steps of a sequence).
    """
    known: dict[Tensor, Any] = dict(zip(graph.input_tensors, given))

    def swap(leaf: Any) -> Any:
        return known[leaf] if isinstance(leaf, Tensor) else leaf

    counts = []
    for node in graph.nodes:
        args, kwargs = keras.tree.map_structure(swap, (node.args, node.kwargs))
        outputs = _outputs(node, args, kwargs, place)
        known.update(zip(node.output_tensors, outputs))
        counts.append(_count(node.operation, args, kwargs, outputs, place))
    return counts, keras.tree.map_structure(swap, graph.outputs)


def _outputs(node: Node, args: Any, kwargs: Any, place: _Place) -> list:
    """Returns the outputs of a call, with the shapes that follow from its inputs'."""
    traced = node.output_tensors
    try:
        specs = node.operation.compute_output_spec(*args, **kwargs)
    except Exception as error:
        raise _unknown(
            node.operation,
            place,
            "the shape of its output is not known for one sample "
            f"({type(error).__name__}: {one_line(error)})",
        ) from error
    found = [spec for spec in keras.tree.flatten(specs) if _is_tensor(spec)]
    return [
        spec
        # An operation that squeezes a batch of one away is another one.
        if len(spec.shape) == len(tensor.shape)
        else keras.KerasTensor(_with_batch(tensor.shape), tensor.dtype)
        for spec, tensor in zip(found, traced, strict=True)
    ]


def _with_batch(shape: tuple) -> tuple:
    return (shape[0] or 1, *shape[1:]) if shape else ()


def _count(operation: Any, args: Any, kwargs: Any, outputs: list, place: _Place) -> int:
    if not isinstance(operation, keras.Layer):
        return _count_operation(operation, args, kwargs, outputs, place)
    values = _arguments(operation, args, kwargs)
    tensors = [t for t in keras.tree.flatten(values) if _is_tensor(t)]
    if is_graph_model(operation):
        graph = trace(operation, _PURPOSE)
        return sum(_through(graph, tensors[: len(graph.input_tensors)], place)[0])
    row = next((r for r in rows_of(operation) if r.macs or r.holds), None)
    rule = None if row is None else row.macs
    if isinstance(rule, Unknown):
        raise _unknown(operation, place, rule.reason)
    if rule is not None:
        # The first axis of what a layer reads is its batch, of one or more.
        repeats = (tensors[0].shape[0] or 1) if tensors and tensors[0].shape else 1
        shapes = [_sizes(tensor)[1:] for tensor in tensors]
        return repeats * rule(operation, shapes, _sizes(outputs[0])[1:])
    if row is not None and row.holds is not None:
        inner = place.inside(operation, copied=False)
        return sum(
            times * _count_call(held, inputs, inner)
            for times, held, inputs in row.holds(operation, tensors)
        )
    return _count_opened(operation, args, kwargs, place)


def _count_call(layer: Any, inputs: list, place: _Place) -> int:
    """Returns the count of a call of a held layer on tensors of these shapes."""
    if hasattr(layer, "state_size"):
        outputs = inputs[:1]  # a cell tells nothing of its outputs
    else:
        outputs = keras.tree.flatten(layer.compute_output_spec(*inputs))
    return _count(layer, tuple(inputs), {}, outputs, place)


def _count_opened(layer: Any, args: Any, kwargs: Any, place: _Place) -> int:
    """Returns the count of what the `call` of a layer does."""
    try:
        graph, given = graph_of_call(layer, args, kwargs, copy=not place.copied)
    except Exception as error:
        raise _unknown(
            layer,
            place,
            f"its `call` does not run on symbolic tensors ({type(error).__name__}: "
            f"{one_line(error)})",
        ) from error
    return sum(_through(graph, given, place.inside(layer, copied=True))[0])


def _count_operation(
    operation: Any, args: Any, kwargs: Any, outputs: list, place: _Place
) -> int:
    rule = cell(operation, "macs") or Unknown("the operation is not known")
    if isinstance(rule, Unknown):
        raise _unknown(operation, place, rule.reason)
    values = _arguments(operation, args, kwargs)
    shapes = [_sizes(value) for value in values if _is_array(value)]
    return rule(operation, shapes, _sizes(outputs[0]))


def _arguments(operation: Any, args: Any, kwargs: Any) -> list:
    """Returns the arguments of a call in the order in which `call` names them."""
    bound = inspect.signature(operation.call).bind_partial(*args, **kwargs)
    values: list = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            values.extend(value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            values.extend(value.values())
        else:
            values.append(value)
    return values


def _is_tensor(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _is_array(value: Any) -> bool:
    if hasattr(value, "shape"):
        return True
    numbers = keras.tree.flatten(value) if isinstance(value, list) else []
    return bool(numbers) and all(isinstance(n, int | float) for n in numbers)


def _sizes(value: Any) -> tuple[int, ...]:
    shape = value.shape if hasattr(value, "shape") else np.shape(value)
    return tuple(size or 1 for size in shape)


def _unknown(operation: Any, place: _Place, reason: str) -> UnsupportedLayerError:
    inside = "".join(f" inside '{layer.name}'" for layer in reversed(place.layers))
    kind = type(operation).__name__
    layers = (*place.layers, operation)
    layer = next((one for one in layers if isinstance(one, keras.Layer)), None)
    teach = "a layer of your own" if layer is None else type(layer).__name__
    return UnsupportedLayerError(
        f"The MACs of '{operation.name}' ({kind}){inside} cannot be counted: {reason}.",
        received=kind,
        expected="layers and operations of Keras, or a `call` made of these",
        fix=f"teach it {teach}: register_layer_rule(LayerRule(TheClass, "
        "macs=lambda layer, inputs, output: ...))",
    )
