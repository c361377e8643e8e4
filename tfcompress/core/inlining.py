"""Subclassed models and composite layers as graphs: what their `call` does.

A `call` that uses Keras layers and `keras.ops` can be run on symbolic tensors, which
record what is called on them. So a subclassed model becomes a Functional one that
shares its layers, and a layer made of layers becomes these. Weights that such a layer
has itself become layers that hold one (`HeldTensor`), and so stay trainable.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfcompress.core.attached_mask import AttachedMask
from tfcompress.core.copies import clone_operation
from tfcompress.core.errors import InvalidArgumentError, one_line
from tfcompress.core.graph import Graph, trace_in_place
from tfcompress.core.held_tensor import HeldTensors, RandomDraw, WeightRead
from tfcompress.core.select import (
    is_graph_model,
    places,
    require_built,
    unused_name,
    walk,
)
from tfcompress.core.types import AnyTensor, Structure

_DEEPEST = 32


def inlined(
    model: keras.Model,
    known: Callable[[Any], bool],
    purpose: str,
    closed: dict[int, str] | None = None,
) -> keras.Model:
    """Returns a Functional model of the same layers in which none is a composite.

    Nested models that hold composites are inlined with them. Names must be unique:
    call it inside of `unique_names`.

    Args:
        model: a built model; returned as it is if it is such a model already.
        known: whether a layer is understood as a whole, and so stays one.
        purpose: what for, in error messages.
        closed: is told why layers that have weights of their own, or read those of
            others, stay composites, by their `id`.

    Raises:
        InvalidArgumentError: for a `call` that cannot be run on symbolic tensors.
    """
    require_built(model, purpose)
    names = {layer.name for _, layer in walk(model)}
    opening = _Opening(known, purpose, {} if closed is None else closed, names)
    if not is_graph_model(model):
        model = opening.as_functional(model)
    for _ in range(_DEEPEST):
        if not opening.wants(model):
            break
        model = opening.opened(model)
    return model


@contextlib.contextmanager
def unique_names(model: keras.Model) -> Iterator[None]:
    """Inside, no two layers of `model`, or of composites in it, bear one name.

    The first keeps its own; the others are called by their paths.
    """
    layers = [
        (path, layer)
        for path, layer in _visible(model, "")
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    taken = {layer.name for _, layer in layers}
    names: set[str] = set()
    before: list[tuple[Any, str]] = []
    try:
        for path, layer in layers:
            if layer.name in names:
                before.append((layer, layer.name))
                layer.name = unused_name(path.replace("/", "_"), taken)
                taken.add(layer.name)
            names.add(layer.name)
        yield
    finally:
        for layer, name in before:
            layer.name = name


def _visible(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields the layers that may become operations of one graph, with their paths."""
    seen: set[int] = set()

    def visit(parent: Any, path: str) -> Iterator[tuple[str, Any]]:
        opened = isinstance(parent, keras.Model | keras.layers.TimeDistributed)
        if _is_of_keras(parent) and not opened:
            return
        for part in places(parent).values():
            if id(part) not in seen:
                seen.add(id(part))
                inner = f"{path}/{part.name}" if path else part.name
                yield inner, part
                yield from visit(part, inner)

    return visit(layer, path)


def _is_of_keras(layer: Any) -> bool:
    return type(layer).__module__.split(".")[0] == "keras"


def _operations(model: keras.Model) -> list[Any]:
    return list(getattr(model, "operations", model.layers))


def is_composite(operation: Any, known: Callable[[Any], bool]) -> bool:
    """Returns whether an operation is a layer of the user's made of other layers."""
    if not isinstance(operation, keras.Layer) or is_graph_model(operation):
        return False
    subclassed = isinstance(operation, keras.Model)
    if (_is_of_keras(operation) and not subclassed) or known(operation):
        return False
    return next(walk(operation), None) is not None


class _Opening:
    """Replaces composites by what they call."""

    def __init__(
        self,
        known: Callable[[Any], bool],
        purpose: str,
        closed: dict[int, str],
        names: set[str],
    ):
        self.known, self.purpose, self.closed = known, purpose, closed
        self.held, self.names = HeldTensors(names), names
        # A nested model that is called twice is opened once.
        self.models: dict[int, tuple[Any, keras.Model]] = {}
        self.attached: dict[tuple[int, int], AttachedMask] = {}

    def wants(self, operation: Any) -> bool:
        """Returns whether an operation is a composite, or a model that holds one."""
        if is_graph_model(operation):
            return bool(self._wanted_of(operation))
        return id(operation) not in self.closed and is_composite(operation, self.known)

    def _wanted_of(self, model: keras.Model) -> set[int]:
        return {id(op) for op in _operations(model) if self.wants(op)}

    def as_functional(self, model: keras.Model) -> keras.Model:
        inputs = _symbolic_inputs(model, self.purpose)
        try:
            with self.held.symbolic(model, inputs):
                outputs = model.call(inputs, **_undecided(model, {}))
            return keras.Model(inputs, outputs, name=model.name)
        except WeightRead as error:
            raise InvalidArgumentError(
                f"Cannot {self.purpose}: the `call` of '{model.name}' reads a weight "
                "of a layer itself.",
                received=error.name,
                expected="weights that only the layers read which hold them",
                fix="make a layer of what reads it, which is given the other layer and "
                "has it in its get_config()",
            ) from error
        except RandomDraw as error:
            raise InvalidArgumentError(
                f"Cannot {self.purpose}: the `call` of '{model.name}' draws random "
                "numbers itself.",
                expected="random numbers that a layer draws, such as GaussianNoise",
                fix="make a layer of what draws them",
            ) from error
        except Exception as error:
            raise _not_symbolic(model, self.purpose, error) from error

    def opened(self, model: keras.Model) -> keras.Model:
        """Returns `model` with composites replaced by what they call."""
        composites = self._wanted_of(model)

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if id(operation) in composites:
                return self._inside(operation, *args, **kwargs)
            return operation(*args, **kwargs)

        if isinstance(model, keras.Sequential):
            inputs = outputs = _like(model.inputs[0])
            for layer in model.layers:
                outputs = call(layer, outputs)
            return keras.Model(inputs, outputs, name=model.name)
        # The same layers, not compiled: copying a loss of the user's own may fail.
        model = keras.Model(model.input, model.output, name=model.name)
        inputs = keras.tree.map_structure(_like, model.input)
        copy = keras.models.clone_model(
            model,
            input_tensors=inputs,
            clone_function=lambda operation: operation,
            call_function=call,
        )
        return keras.Model(inputs, copy.output, name=model.name)

    def _inside(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what a composite makes, by what it calls."""
        if is_graph_model(operation):
            if id(operation) not in self.models:
                self.models[id(operation)] = operation, self.opened(operation)
            return self.models[id(operation)][1](*args, **kwargs)
        held = _own_variables(operation)
        given = {**kwargs, **_undecided(operation, kwargs, args)}
        given.update(_masks(operation, args, given))
        try:
            with self.held.symbolic(operation, (args, kwargs)):
                outputs = operation.call(*args, **given)
                return self._with_masks(operation, args, given, outputs)
        except WeightRead as error:
            self.closed[id(operation)] = (
                f"its call reads '{error.name}', a weight of another layer"
            )
        except RandomDraw:
            self.closed[id(operation)] = "its call draws random numbers"
        except Exception as error:
            if not held:
                raise _not_symbolic(operation, self.purpose, error) from error
            self.closed[id(operation)] = (
                "its call does not run on symbolic tensors "
                f"({type(error).__name__}: {one_line(error)})"
            )
        return operation(*args, **kwargs)

    def _with_masks(
        self, layer: Any, args: tuple, kwargs: dict, outputs: Structure
    ) -> Structure:
        """Returns outputs with the masks that Keras would give them."""
        flat = keras.tree.flatten(outputs)
        if not layer.supports_masking or all(_mask_of(one) is not None for one in flat):
            return outputs
        first = args[0] if args else next(iter(kwargs.values()))
        read = kwargs.get("mask")
        if read is None:
            read = keras.tree.map_structure(_mask_of, first)
        made = keras.tree.flatten(layer.compute_mask(first, read))
        for place, (tensor, mask) in enumerate(zip(flat, made)):
            if mask is not None and _mask_of(tensor) is None:
                flat[place] = self._attach(layer, place)(tensor, mask=mask)
        return keras.tree.pack_sequence_as(outputs, flat)

    def _attach(self, layer: Any, place: int) -> AttachedMask:
        key = id(layer), place
        if key not in self.attached:
            name = unused_name(f"{layer.name}_mask", self.names)
            self.names.add(name)
            self.attached[key] = AttachedMask(name=name)
        return self.attached[key]


def _mask_of(tensor: AnyTensor) -> AnyTensor:
    return getattr(tensor, "_keras_mask", None)


def _own_variables(layer: Any) -> list:
    inner = {id(v) for part in places(layer).values() for v in part.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def _undecided(layer: Any, kwargs: dict, args: tuple = ()) -> dict:
    """Returns `training=None` where a call has a default, which is not meant here.

    Keras hands on whether a model is trained; a default counts outside of models only.
    """
    signature = inspect.signature(layer.call)
    if "training" not in signature.parameters:
        return {}
    given = signature.bind_partial(*args, **kwargs).arguments
    return {} if "training" in given else {"training": None}


def _masks(layer: Any, args: tuple, kwargs: dict) -> dict:
    """Returns the masks that Keras would give to a call, by their arguments."""
    signature = inspect.signature(layer.call)
    given = signature.bind_partial(*args, **kwargs).arguments
    tensors = {
        name: value
        for name, value in given.items()
        if any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(value))
    }
    masks = {}
    for name, value in tensors.items():
        argument = "mask" if len(tensors) == 1 else f"{name}_mask"
        mask = keras.tree.map_structure(_mask_of, value)
        wanted = argument in signature.parameters and given.get(argument) is None
        if wanted and any(m is not None for m in keras.tree.flatten(mask)):
            masks[argument] = mask
    return masks


def as_it_was_built(model: keras.Model) -> Any:
    """Returns symbolic inputs of a subclassed model; `None` if it knows no shapes."""
    config = model.get_build_config() or {}
    shapes = config.get("input_shape", config.get("shapes_dict"))
    return None if shapes is None else _inputs(shapes)


def _symbolic_inputs(model: keras.Model, purpose: str) -> Structure:
    inputs = as_it_was_built(model)
    if inputs is None:
        raise InvalidArgumentError(
            f"Cannot {purpose}: '{model.name}' does not know the shape of its inputs.",
            received=f"the subclassed model {type(model).__name__}",
            fix="call the model once on data. If that has been done, its `call` does "
            "not run on symbolic tensors: use Keras layers and keras.ops in it, and no "
            "Python that depends on values",
        )
    return inputs


def _inputs(shapes: Any, name: str | None = None) -> Structure:
    if isinstance(shapes, dict):
        return {name: _inputs(shape, name) for name, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.Input(batch_shape=(None, *shapes[1:]), name=name)
    return [_inputs(shape) for shape in shapes]


def _like(tensor: AnyTensor) -> AnyTensor:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


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
