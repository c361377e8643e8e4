"""Subclassed models and composite layers as graphs: what their `call` does.

A `call` that uses Keras layers and `keras.ops` can be run on symbolic tensors, which
record what is called on them. So a subclassed model becomes a Functional one that
shares its layers, and a layer made of layers becomes these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError, one_line
from tfcompress.core.graph import (
    Graph,
    clone_operation,
    is_graph_model,
    trace_in_place,
    unused_name,
)
from tfcompress.core.select import require_built, walk

_DEEPEST = 32


def inlined(
    model: keras.Model, known: Callable[[Any], bool], purpose: str
) -> keras.Model:
    """Returns a Functional model of the same layers in which none is a composite.

    Args:
        model: a built model; returned as it is if it is such a model already.
        known: whether a layer is understood as a whole, and so stays one.
        purpose: what for, in error messages.

    Raises:
        InvalidArgumentError: for a `call` that cannot be run on symbolic tensors.
    """
    require_built(model, purpose)
    if not is_graph_model(model):
        model = _as_functional(model, purpose)
    for _ in range(_DEEPEST):
        found = [op for op in _operations(model) if is_composite(op, known)]
        if not found:
            break
        model = _opened(model, {id(op) for op in found}, purpose)
    return model


def _operations(model: keras.Model) -> list[Any]:
    return list(getattr(model, "operations", model.layers))


def is_composite(operation: Any, known: Callable[[Any], bool]) -> bool:
    """Returns whether an operation is nothing but a call of its own layers."""
    if not isinstance(operation, keras.Layer) or is_graph_model(operation):
        return False
    if type(operation).__module__.split(".")[0] == "keras" or known(operation):
        return False
    parts = [part for _, part in walk(operation)]
    inner = {id(v) for part in parts for v in part.variables}
    return bool(parts) and all(id(v) in inner for v in operation.variables)


def _as_functional(model: keras.Model, purpose: str) -> keras.Model:
    config = model.get_build_config() or {}
    shapes = config.get("input_shape", config.get("shapes_dict"))
    if shapes is None:
        raise InvalidArgumentError(
            f"Cannot {purpose}: '{model.name}' does not know the shape of its inputs.",
            received=f"the subclassed model {type(model).__name__}",
            fix="call the model once on data. If that has been done, its `call` does "
            "not run on symbolic tensors: use Keras layers and keras.ops in it, and no "
            "Python that depends on values",
        )
    inputs = _inputs(shapes)
    try:
        return keras.Model(inputs, model.call(inputs), name=model.name)
    except Exception as error:
        raise _not_symbolic(model, purpose, error) from error


def _inputs(shapes: Any, name: str | None = None) -> Any:
    if isinstance(shapes, dict):
        return {name: _inputs(shape, name) for name, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.Input(batch_shape=(None, *shapes[1:]), name=name)
    return [_inputs(shape) for shape in shapes]


def _opened(model: keras.Model, composites: set[int], purpose: str) -> keras.Model:
    """Returns `model` with some of its layers replaced by what they call."""

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if id(operation) not in composites:
            return operation(*args, **kwargs)
        try:
            return operation.call(*args, **kwargs)
        except Exception as error:
            raise _not_symbolic(operation, purpose, error) from error

    if isinstance(model, keras.Sequential):
        inputs = outputs = keras.Input(
            batch_shape=model.inputs[0].shape,
            dtype=model.inputs[0].dtype,
            name=model.inputs[0].name,
        )
        for layer in model.layers:
            outputs = call(layer, outputs)
        return keras.Model(inputs, outputs, name=model.name)
    inputs = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name),
        model.input,
    )
    copy = keras.models.clone_model(
        model,
        input_tensors=inputs,
        clone_function=lambda operation: operation,
        call_function=call,
    )
    return keras.Model(inputs, copy.output, name=model.name)


def _not_symbolic(layer: Any, purpose: str, error: Exception) -> InvalidArgumentError:
    reason = one_line(error)
    return InvalidArgumentError(
        f"Cannot {purpose}: the `call` of '{layer.name}' does not run on symbolic "
        f"tensors ({type(error).__name__}: {reason}).",
        received=type(layer).__name__,
        expected="a `call` made of Keras layers and keras.ops",
        fix="use keras.ops in place of TensorFlow's functions, and no Python that "
        "depends on values",
    )


def graph_of_call(
    layer: Any, args: tuple, kwargs: dict, copy: bool = True
) -> tuple[Graph, list]:
    """Returns what the `call` of a layer does as a graph, and what to feed it with.

    The graph is there to be read: with `copy=False` its operations are the layer's
    own, and calling these again leaves traces on them.

    Args:
        layer: the layer.
        args, kwargs: the arguments of the call, with `keras.KerasTensor` for tensors.
        copy: whether to read a copy of the layer, so that the layer is not touched.

    Raises:
        Exception: whatever the `call` raises on symbolic tensors.
    """
    given = [t for t in keras.tree.flatten((args, kwargs)) if _is_symbolic(t)]
    free = [(None, *t.shape[1:]) if t.shape[:1] == (1,) else t.shape for t in given]
    if copy:
        layer = clone_operation(layer)
    try:
        graph = _graph_of_call(layer, args, kwargs, free)
    except Exception:
        # Free sizes cannot be reckoned with; the count of a graph takes them as 1.
        fixed = [tuple(size or 1 for size in shape) for shape in free]
        if fixed == free:
            raise
        graph = _graph_of_call(layer, args, kwargs, fixed)
    return graph, given


def _is_symbolic(leaf: Any) -> bool:
    return isinstance(leaf, keras.KerasTensor)


def _graph_of_call(layer: Any, args: tuple, kwargs: dict, shapes: list) -> Graph:
    inputs: list[Any] = []

    def fresh(leaf: Any) -> Any:
        if not _is_symbolic(leaf):
            return leaf
        inputs.append(keras.Input(batch_shape=shapes[len(inputs)], dtype=leaf.dtype))
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(fresh, (args, kwargs))
    if not layer.built:
        layer(*args, **kwargs)
    # A Functional model cannot hold two layers of one name.
    names: set[str] = set()
    for _, part in walk(layer):
        if part.name in names:
            part.name = unused_name(part.name, names)
        names.add(part.name)
    outputs = layer.call(*args, **kwargs)
    return trace_in_place(keras.Model(inputs, outputs))
