"""Layers of the user's own as the operations that their `call` records.

A `call` made of `keras.ops` and Keras layers can be run on symbolic tensors. The
layer's variables are symbolic tensors too, so the record tells what is done with each:
a product with a kernel is a Dense layer, a product with one number for each channel a
scale.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.copies import clone_operation
from tfcompress.core.equation import Equation
from tfcompress.core.errors import one_line
from tfcompress.core.graph import (
    Graph,
    Node,
    Tensor,
    is_graph_model,
    map_tensors,
    trace_operations,
)
from tfcompress.core.held_tensor import RandomDraw, Watch
from tfcompress.core.select import walk
from tfcompress.layers import knows
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.primitives import AddConstant, AddWeight, ScaleOffset


def is_unknown(layer: Any) -> bool:
    """Returns whether the table has no word about what a layer computes."""
    if not isinstance(layer, keras.Layer) or is_graph_model(layer):
        return False
    if type(layer).__module__.split(".")[0] in ("keras", "tfcompress"):
        return False
    # A class that inherits from one that the table knows may compute something else.
    return not knows(layer)


def opened(layer: Any, parts: Parts, *args: Any, **kwargs: Any) -> Any:
    """Returns the outputs of a layer as operations; see `StaysFloat` for when not."""
    if isinstance(layer, layers.Lambda) or not layer.built:
        return None
    kwargs = {name: value for name, value in kwargs.items() if name != "training"}
    given = [t for t in keras.tree.flatten((args, kwargs)) if _is_symbolic(t)]
    twin, symbols = _with_symbols(layer)
    inputs = [*given, *(symbol for symbol, _ in symbols)]
    outputs, graph = _recorded(layer, twin, inputs, args, kwargs)
    values: dict[Tensor, Any] = dict(zip(graph.input_tensors, given))
    variables = [variable for _, variable in symbols]
    weights = dict(zip(graph.input_tensors[len(given) :], variables))
    _check_used_once(graph, weights)
    values |= {t: ops.convert_to_numpy(variable) for t, variable in weights.items()}
    trained = {t for t, variable in weights.items() if variable.trainable}
    for index, node in enumerate(graph.nodes):
        made = _replayed(node, values, parts, f"_{index}", trained)
        values |= dict(zip(node.output_tensors, keras.tree.flatten(made)))
        if trained.intersection(node.inputs):
            trained.update(node.output_tensors)
    results = [values[tensor] for tensor in graph.output_tensors]
    if not all(map(_is_symbolic, results)):
        raise StaysFloat("it puts out its own weights", "let it compute with its input")
    return keras.tree.pack_sequence_as(outputs, results)


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _with_symbols(layer: Any) -> tuple[Any, list]:
    """Returns the layer with symbolic tensors for variables, and whose these are."""
    inner = {
        id(v) for _, part in walk(layer) if part is not layer for v in part.variables
    }
    own = [v for v in layer.variables if id(v) not in inner]
    strange = [v.name for v in own if "float" not in v.dtype]
    if strange:
        raise StaysFloat(
            f"it has a state of its own ({', '.join(strange)}), such as that of random "
            "numbers",
            "leave it out, or register a rule for its class",
        )
    symbols = {
        id(v): keras.Input(batch_shape=tuple(v.shape), dtype="float32") for v in own
    }
    twin = object.__new__(type(layer))

    def symbolic(value: Any) -> Any:
        if isinstance(value, keras.Variable):
            return symbols.get(id(value), value)
        if isinstance(value, list | tuple):
            return [symbolic(one) for one in value]
        if isinstance(value, dict):
            return {key: symbolic(one) for key, one in value.items()}
        return value

    tracked = ("_trainable_variables", "_non_trainable_variables")
    for name, value in vars(layer).items():
        holds = isinstance(value, keras.Variable) or (
            isinstance(value, list | tuple | dict)
            and any(isinstance(v, keras.Variable) for v in keras.tree.flatten(value))
        )
        changed = holds and name not in tracked
        vars(twin)[name] = symbolic(value) if changed else value
    return twin, [(symbols[id(v)], v) for v in own]


def _recorded(
    layer: Any, twin: Any, inputs: list, args: tuple, kwargs: dict
) -> tuple[Any, Graph]:
    """Returns what the `call` puts out, in training and after it, and its graph."""

    def run(**options: Any) -> tuple[Any, Graph]:
        try:
            with Watch({}):
                outputs = twin.call(*args, **{**kwargs, **options})
            return outputs, trace_operations(keras.Model(inputs, outputs))
        except StaysFloat:
            raise
        except RandomDraw:
            raise StaysFloat(
                "its `call` draws random numbers", "make a layer of what draws them"
            ) from None
        except Exception as error:
            raise StaysFloat(
                f"its `call` does not run on symbolic tensors ({one_line(error)})",
                "write it with keras.ops, and no Python that depends on values",
            ) from error

    if "training" not in inspect.signature(layer.call).parameters:
        return run()
    records = [run(training=training) for training in (True, False)]
    kinds = [[type(n.operation) for n in graph.nodes] for _, graph in records]
    if kinds[0] != kinds[1]:
        raise StaysFloat(
            "it computes something else in training",
            "if it does nothing after it, say so by register_layer_rule(LayerRule("
            "..., 'select', training_only=True))",
        )
    return records[1]


def _check_used_once(graph: Graph, weights: dict[Tensor, Any]) -> None:
    """Raises `StaysFloat` for a weight in two places: apart, they would train apart."""
    for tensor, variable in weights.items():
        derived, places = {tensor}, 0
        for node in graph.nodes:
            read = derived.intersection(node.inputs)
            if read and derived.union(weights).issuperset(node.inputs):
                derived.update(node.output_tensors)
            elif read:
                places += 1
        if places > 1 and variable.trainable:
            raise StaysFloat(
                f"its weight '{variable.name}' is used in {places} places",
                "use one layer for each",
            )


def _replayed(
    node: Node, values: dict, parts: Parts, suffix: str, trained: set[Tensor]
) -> Any:
    """Returns what a node makes, as a layer where it computes with a weight."""
    args, kwargs = map_tensors(values.__getitem__, (node.args, node.kwargs))
    read = [values[tensor] for tensor in node.inputs]
    if isinstance(node.operation, keras.Layer):
        if not all(map(_is_symbolic, read)):
            raise StaysFloat(
                f"its weight is an input of the layer '{node.name}'", "use keras.ops"
            )
        copy = clone_operation(node.operation)
        weights = node.operation.get_weights() or None
        return parts.add(copy, weights)(*args, **kwargs)
    if all(map(_is_symbolic, read)):
        return node.operation(*args, **kwargs)
    kind = type(node.operation).__name__
    if not any(map(_is_symbolic, read)):
        try:
            if kind == "BroadcastTo" and node.operation.shape[0] is None:
                # To as many samples as there are: those who read it do that as well.
                return np.broadcast_to(read[0], (1, *node.operation.shape[1:]))
            return ops.convert_to_numpy(node.operation(*args, **kwargs))
        except Exception as error:
            raise StaysFloat(
                f"its weight is given another form by {kind}",
                "make the weight as it is used",
            ) from error
    function = _WITH_WEIGHTS.get(kind)
    outputs = None
    if function is not None and not kwargs:
        learns = not trained.isdisjoint(node.inputs)
        named = functools.partial(_part, parts, suffix, learns)
        outputs = function(node.operation, named, *args)
    if outputs is None:
        shapes = [tuple(value.shape) for value in read]
        raise StaysFloat(
            f"it computes {kind} of tensors and weights of the shapes {shapes}",
            "use a product with a matrix, or sums and products with one number for "
            "each channel",
        )
    return outputs


def _part(parts: Parts, suffix: str, learns: bool, kind: type, **options: Any) -> Any:
    """Returns a layer among the parts of another; of a sum, one that trains or not."""
    if kind is AddWeight and not learns:
        (value,), padding = options["weights"], options.get("padding")
        return parts(AddConstant, suffix, value=np.pad(value, padding or 0))
    return parts(kind, suffix, **options)


def _product(operation: Any, part: Any, x: Any, kernel: Any) -> Any:
    if not _is_symbolic(x) or np.ndim(kernel) != 2 or len(x.shape) < 2:
        return None
    units = kernel.shape[-1]
    return part(layers.Dense, weights=[kernel], units=units, use_bias=False)(x)


def _einsum(operation: Any, part: Any, x: Any, kernel: Any) -> Any:
    equation = Equation.of(operation.subscripts)
    if not _is_symbolic(x) or not equation.is_whole or len(equation.terms) != 2:
        return None
    fixed = len(equation.named().target) - 1
    shape = operation.compute_output_spec(x, _like(kernel)).shape[-fixed:]
    layer = part(
        layers.EinsumDense,
        weights=[kernel],
        equation=operation.subscripts.replace(" ", ""),
        output_shape=shape,
    )
    return layer(x)


def _like(array: np.ndarray) -> Any:
    return keras.KerasTensor(array.shape, dtype="float32")


def _of_channels(x: Any, weight: Any) -> np.ndarray | None:
    channels = x.shape[-1]
    if np.size(weight) == 1:
        return np.full(channels, np.reshape(weight, ()), "float32")
    alone = np.size(weight) == channels and np.shape(weight)[-1] == channels
    return np.reshape(weight, -1) if alone else None


def _scaled(part: Any, x: Any, weight: Any) -> Any:
    gamma = _of_channels(x, weight)
    if gamma is None:
        return None
    return part(ScaleOffset, weights=[gamma], scale=True, offset=False)(x)


def _moved(part: Any, x: Any, weight: Any) -> Any:
    beta = _of_channels(x, weight)
    if beta is None:
        # Positions of tokens and the like.
        sample = np.reshape(weight, np.shape(weight)[1 - len(x.shape) :])
        fits = sample.shape == tuple(x.shape[1:]) and sample.size == np.size(weight)
        if not fits:
            return None
        return part(AddWeight, weights=[sample], shape=sample.shape)(x)
    return part(ScaleOffset, weights=[beta], scale=False, offset=True)(x)


def _sum(operation: Any, part: Any, x1: Any, x2: Any) -> Any:
    return _moved(part, x1, x2) if _is_symbolic(x1) else _moved(part, x2, x1)


def _difference(operation: Any, part: Any, x1: Any, x2: Any) -> Any:
    return _moved(part, x1, -x2) if _is_symbolic(x1) else _moved(part, -x2, x1)


def _times(operation: Any, part: Any, x1: Any, x2: Any) -> Any:
    return _scaled(part, x1, x2) if _is_symbolic(x1) else _scaled(part, x2, x1)


def _quotient(operation: Any, part: Any, x1: Any, x2: Any) -> Any:
    return _scaled(part, x1, 1.0 / x2) if _is_symbolic(x1) else None


def _convolution(operation: Any, part: Any, x: Any, kernel: Any) -> Any:
    rank = len(x.shape) - 2
    if not _is_symbolic(x) or rank not in (1, 2):
        return None
    if operation.data_format not in (None, "channels_last"):
        return None
    depthwise = type(operation).__name__ == "DepthwiseConv"
    kinds = {
        (1, False): layers.Conv1D,
        (2, False): layers.Conv2D,
        (1, True): layers.DepthwiseConv1D,
        (2, True): layers.DepthwiseConv2D,
    }
    counts = {"depth_multiplier" if depthwise else "filters": kernel.shape[-1]}
    if not depthwise:
        counts["groups"] = x.shape[-1] // kernel.shape[-2]
    layer = part(
        kinds[rank, depthwise],
        weights=[kernel],
        kernel_size=kernel.shape[:rank],
        strides=operation.strides,
        padding=operation.padding,
        dilation_rate=operation.dilation_rate,
        data_format="channels_last",
        use_bias=False,
        **counts,
    )
    return layer(x)


def _joined(operation: Any, part: Any, tensors: Any) -> Any:
    """Puts a weight before or behind a tensor, as class tokens are.

    The tensor is padded with zeros, and the weight is added in their place.
    """
    if len(tensors) != 2 or _is_symbolic(tensors[0]) == _is_symbolic(tensors[1]):
        return None
    before = _is_symbolic(tensors[1])
    weight, x = tensors if before else tensors[::-1]
    rank = len(x.shape)
    axis = operation.axis % rank
    one_sample = np.ndim(weight) == rank and np.shape(weight)[0] == 1
    if axis == 0 or not one_sample or None in x.shape[1:]:
        return None

    def zeros(size: int, first: bool) -> list[tuple[int, int]]:
        pair = (size, 0) if first else (0, size)
        return [pair if place == axis else (0, 0) for place in range(rank)]

    own = weight[0]
    padding = zeros(x.shape[axis], not before)[1:]
    layer = part(AddWeight, weights=[own], shape=own.shape, padding=padding)
    return layer(ops.pad(x, zeros(weight.shape[axis], before)))


# What is done with a weight, by the name of the operation.
_WITH_WEIGHTS: dict[str, Callable[..., Any]] = {
    "Add": _sum,
    "Concatenate": _joined,
    "Conv": _convolution,
    "DepthwiseConv": _convolution,
    "Divide": _quotient,
    "Dot": _product,
    "Einsum": _einsum,
    "Matmul": _product,
    "Multiply": _times,
    "Subtract": _difference,
    "TrueDivide": _quotient,
}
