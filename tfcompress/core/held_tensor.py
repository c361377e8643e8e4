"""Weights and constants of a layer's own as tensors of a graph.

The `call` of a composite may use weights that it holds itself (a class token, a learned
scale), or call a layer on constants (an embedding of positions). Run on symbolic
tensors, either would become a constant that no training changes. So the weights are
symbolic too while such a `call` runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.core.registry import PACKAGE
from tfcompress.core.select import places, unused_name, walk
from tfcompress.core.types import AnyTensor, Structure

# What Keras calls the state of each of its generators, also of the one for all.
_SEED = "seed_generator_state"


@keras.saving.register_keras_serializable(package=PACKAGE)
class HeldTensor(keras.layers.Layer):
    """Holds a weight, or a constant, and puts it out whatever its input is.

    Args:
        shape: its shape; there is no axis for the batch.
        held_dtype: its type.
        trainable: whether training changes it.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        held_dtype: str = "float32",
        trainable: bool = True,
        **kwargs: Any,
    ):
        super().__init__(trainable=trainable, **kwargs)
        self.shape, self.held_dtype = tuple(shape), held_dtype
        self.supports_masking = True
        self.initializer: Any = "zeros"

    def build(self, input_shape: Any = None) -> None:
        self.value = self.add_weight(
            shape=self.shape,
            dtype=self.held_dtype,
            initializer=self.initializer,
            trainable=self.trainable,
            name="value",
        )

    def call(self, inputs: Structure) -> AnyTensor:
        return keras.ops.convert_to_tensor(self.value)

    def compute_mask(self, inputs: Structure, mask: Structure = None) -> None:
        return None

    def compute_output_shape(self, input_shape: Any) -> tuple[int, ...]:
        return self.shape

    def compute_output_spec(self, inputs: Structure) -> keras.KerasTensor:
        floats = keras.backend.is_float_dtype(self.held_dtype)
        dtype = self.compute_dtype if floats else self.held_dtype
        return keras.KerasTensor(self.shape, dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "shape": self.shape,
            "held_dtype": self.held_dtype,
            "trainable": self.trainable,
        }


class WeightRead(Exception):
    """A `call` reads a weight of another layer, which a graph cannot show.

    Args:
        name: which one.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class RandomDraw(Exception):
    """A `call` draws random numbers itself, which a graph would hold as constants."""


class HeldTensors:
    """Makes the weights and constants of composites symbolic, each weight once.

    Args:
        names: those that layers have already.
    """

    def __init__(self, names: set[str]) -> None:
        self._layers: dict[int, tuple[Any, HeldTensor]] = {}
        self._names = names
        self._symbolic = False

    @contextlib.contextmanager
    def symbolic(self, layer: Any, inputs: Structure) -> Iterator[None]:
        """Inside, the weights that `layer` holds itself are symbolic tensors.

        Args:
            layer: the composite whose `call` is run.
            inputs: what it is given; the tensors hang on the first of these.

        Raises:
            WeightRead: if a weight of another layer is read.
            RandomDraw: if random numbers are drawn, other than by a layer.
        """
        leaves = keras.tree.flatten(inputs)
        anchor = next(x for x in leaves if isinstance(x, keras.KerasTensor))
        inner = {id(v) for part in places(layer).values() for v in part.variables}
        own = {id(v): v for v in layer.variables if id(v) not in inner}
        # Keras' own attributes list the weights once more, for bookkeeping.
        attributes = {
            name: value
            for name, value in vars(layer).items()
            if not name.endswith(("trainable_variables", "_layers", "_tracker"))
            and _holds(value, own)
        }
        parts = [part for _, part in walk(layer) if part.weights]
        calls = {id(part): vars(part).get("call") for part in parts}
        try:
            for name, value in attributes.items():
                vars(layer)[name] = self._replaced(value, own, layer, anchor)
            for part in parts:
                vars(part)["call"] = self._symbolic_call(part, anchor)
            with Watch({id(v): v.path for v in layer.variables}):
                yield
        finally:
            vars(layer).update(attributes)
            for part in parts:
                del vars(part)["call"]
                if calls[id(part)] is not None:
                    vars(part)["call"] = calls[id(part)]

    def _replaced(self, value: Any, own: dict, owner: Any, anchor: Any) -> Any:
        if isinstance(value, keras.Variable) and id(value) in own:
            return self._weight(value, owner)(anchor)
        if isinstance(value, list | tuple):
            return type(value)(self._replaced(x, own, owner, anchor) for x in value)
        if isinstance(value, dict):
            return {k: self._replaced(x, own, owner, anchor) for k, x in value.items()}
        return value

    def _weight(self, variable: Any, owner: Any) -> HeldTensor:
        if id(variable) not in self._layers:
            layer = HeldTensor(
                variable.shape,
                variable.dtype,
                bool(variable.trainable and owner.trainable),
                name=self._unused(f"{owner.name}_{variable.name}"),
                dtype=owner.dtype_policy,
            )
            layer.build()
            layer.value.assign(variable)
            self._layers[id(variable)] = variable, layer
        return self._layers[id(variable)][1]

    def _unused(self, name: str) -> str:
        name = unused_name(name, self._names)
        self._names.add(name)
        return name

    def _symbolic_call(self, part: Any, anchor: Any) -> Callable:
        """Returns a `call` that is symbolic where a layer is given constants."""
        own = part.call

        @functools.wraps(own)
        def call(*args: Any, **kwargs: Any) -> Any:
            leaves = [x for x in keras.tree.flatten((args, kwargs)) if _is_array(x)]
            concrete = bool(leaves) and all(map(_is_concrete, leaves))
            if self._symbolic or not concrete:
                # Keras asks for the shape of what it makes: all inside is its business.
                before, self._symbolic = self._symbolic, True
                try:
                    return own(*args, **kwargs)
                finally:
                    self._symbolic = before
            args, kwargs = keras.tree.map_structure(
                lambda x: self._constant(x, part)(anchor) if _is_array(x) else x,
                (args, kwargs),
            )
            return part(*args, **kwargs)

        return call

    def _constant(self, value: Any, reader: Any) -> HeldTensor:
        array = keras.ops.convert_to_numpy(value)
        name = self._unused(f"{reader.name}_input")
        layer = HeldTensor(array.shape, str(array.dtype), False, name=name)
        # Nothing can be assigned while weights are watched.
        layer.initializer = keras.initializers.Constant(array)
        layer.build()
        return layer


class Watch(keras.StatelessScope):
    """Inside, layers alone draw random numbers and read the weights that they hold.

    Layers that are called on symbolic tensors do both in a scope of their own.

    Args:
        watched: the paths of the weights, by the `id` of their variables.
    """

    def __init__(self, watched: dict[int, str]):
        super().__init__()
        self.watched = watched

    def get_current_value(self, variable: Any) -> Any:
        if id(variable) in self.watched:
            raise WeightRead(self.watched[id(variable)])
        if variable.name == _SEED:
            raise RandomDraw
        return super().get_current_value(variable)


def _holds(value: Any, variables: dict[int, Any]) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds(item, variables) for item in value)
    if isinstance(value, dict):
        return any(_holds(item, variables) for item in value.values())
    return id(value) in variables


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or keras.ops.is_tensor(value)


def _is_concrete(value: Any) -> bool:
    """Returns whether a tensor has its values, and is not one of a function's."""
    return isinstance(value, np.ndarray) or hasattr(value, "numpy")
