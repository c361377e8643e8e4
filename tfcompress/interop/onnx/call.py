"""What the function of an operator is given: a node, its inputs, a maker of layers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.core.held_tensor import HeldTensor
from tfcompress.interop.onnx.reading import Node, in_ascii
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Names, Value

#: Functions by operator. Each takes a `Call` and returns the outputs.
OPERATORS: dict[str, Callable[[Call], Any]] = {}
_MISSING: Any = object()
_WEIGHT = re.compile(r"(.+)[._](weight|bias)")


def operator(*kinds: str) -> Callable:
    """Files the function of operators under their names."""

    def file(function: Callable) -> Callable:
        OPERATORS.update(dict.fromkeys(kinds, function))
        return function

    return file


class Call:
    """One node of the graph, about to become layers.

    Args:
        node: the node.
        inputs: values and constants that it reads, None for what is left out.
        made: the layers with weights that were made before, by what they are.
        names: the names of all layers.
        batch: the number that stands for the size of a batch.
        opset: the version of the operators.
    """

    def __init__(
        self,
        node: Node,
        inputs: Sequence[Any],
        made: dict[Any, Any],
        names: Names,
        batch: int,
        opset: int,
    ):
        self.node, self.inputs, self.opset = node, list(inputs), opset
        self.batch = batch
        #: The size of a batch that shapes in the file are written for, or None.
        self.fixed: int | None = None
        #: What the first input comes from: another node, or None.
        self.before: Node | None = None
        #: Tells how many rows a table has that an input looks up.
        self.limit: Callable[[str, int], None] = lambda name, rows: None
        #: Which of the outputs are read.
        self.used: tuple[bool, ...] = (True,) * len(node.outputs)
        self._made, self._names = made, names

    @property
    def name(self) -> str:
        """The name of the node, in letters that a layer may have."""
        return spelled(self.node.name)

    @property
    def owner(self) -> str:
        """The name of the module that has the weights, or else that of the node.

        Weights are called `conv1.weight`, nodes `/layer/layer.0/conv1/Conv`.
        """
        for name in self.node.inputs:
            found = _WEIGHT.fullmatch(name)
            if found and "::" not in name:
                return spelled(found[1])
        inner, _, kind = self.name.rpartition(".")
        return inner if inner and kind.startswith(self.node.kind) else self.name

    def attribute(self, name: str, default: Any = _MISSING) -> Any:
        """Returns an option of the node."""
        value = self.node.attributes.get(name, default)
        if value is _MISSING:
            raise Refused(f"no {name}", "a whole node")
        return value.decode() if isinstance(value, bytes) else value

    def given(self, index: int) -> bool:
        """Returns whether the node has an input at a position."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int = 0) -> Value:
        """Returns an input that is computed from those of the model."""
        if not self.given(index) or not isinstance(self.inputs[index], Value):
            raise Refused(f"a constant as input {index}", "a tensor of the model")
        return self.inputs[index]

    def constant(self, index: int, default: Any = _MISSING) -> Any:
        """Returns an input that is known."""
        if not self.given(index):
            if default is _MISSING:
                raise Refused(f"no input {index}", "a whole node")
            return default
        if isinstance(self.inputs[index], Value):
            raise Refused(
                f"input {index} ('{self.node.inputs[index]}') is computed from the "
                "inputs of the model",
                "a constant",
            )
        return self.inputs[index]

    def setting(self, name: str, index: int, default: Any = _MISSING) -> Any:
        """Returns an option that was an attribute in old versions, later an input."""
        if name in self.node.attributes:
            return self.attribute(name)
        found = self.constant(index, None)
        if found is not None:
            return np.asarray(found).tolist()
        if default is _MISSING:
            raise Refused(f"no {name}", "a whole node")
        return default

    def axes(self, value: Value, index: int = 1) -> list[int] | None:
        """Returns the axes that the node names; None if it names none."""
        found = self.setting("axes", index, None)
        if found is None:
            return None
        return [value.axis(int(axis)) for axis in np.ravel(found)]

    def unused(self, suffix: str = "") -> str:
        """Returns a name for a layer without weights."""
        return self._names.unused(f"{self.name}{suffix}")

    def layer(self, kind: type, tensor: Any, suffix: str = "", **config: Any) -> Any:
        """Returns what a layer without weights makes of a tensor, or of several."""
        return kind(name=self.unused(suffix), **config)(tensor)

    def weighted(
        self,
        kind: Callable[..., Any],
        tensor: Any,
        weights: Sequence[Any],
        part: Any = None,
        called: dict[str, Any] | None = None,
        **config: Any,
    ) -> Any:
        """Returns what a layer with weights makes of a tensor.

        Nodes that read the same weights share the layer, as they shared the module.

        Args:
            kind: the class of the layer.
            tensor: its input.
            weights: arrays in the order of Keras.
            part: what tells it from other layers with these weights.
            called: what else it is called with.
            **config: its options.
        """
        constants = tuple(
            name
            for name, given in zip(self.node.inputs, self.inputs)
            if name and not isinstance(given, Value)
        )
        shapes = str([tuple(np.shape(w)) for w in weights])
        # Nodes may make other weights of the same constants: transposed, or times two.
        content = hashlib.sha256()
        for array in weights:
            content.update(np.ascontiguousarray(array).tobytes())
        made_of = (constants, shapes, content.hexdigest())
        key = (kind, made_of, str(part), str(config), str(_rest(tensor)))
        layer = self._made.get(key)
        if layer is None or not constants:
            layer = kind(name=self._names.unused(self.owner), **config)
            made = layer(tensor, **(called or {}))
            wanted = str([tuple(v.shape) for v in layer.weights])
            if wanted != shapes:
                raise Refused(f"weights of shapes {shapes}", wanted)
            layer.set_weights([np.asarray(w) for w in weights])
            self._made[key] = layer
            return made
        return layer(tensor, **(called or {}))

    def held(self, array: np.ndarray, anchor: Value, index: int) -> Any:
        """Returns a constant as a tensor that training changes if it holds floats.

        Args:
            array: the constant.
            anchor: a value of the model, on which it hangs.
            index: which input of the node it is.
        """
        name = spelled(self.node.inputs[index])
        trains = array.dtype.kind == "f"
        key = (HeldTensor, name, array.shape, array.tobytes())
        layer = self._made.get(key)
        if layer is None:
            layer = HeldTensor(
                array.shape, str(array.dtype), trains, name=self._names.unused(name)
            )
            layer.build()
            layer.value.assign(array)
            self._made[key] = layer
        return layer(anchor.raw)

    def result(self, tensor: Any, like: Value) -> Value:
        """Returns a value that lies as another does."""
        return like.same(tensor, self.name)

    def plain(
        self, tensor: Any, shape: Sequence[int], order: Sequence[int] | None = None
    ) -> Value:
        """Returns a value each of whose axes is one of the tensor.

        Args:
            tensor: the tensor.
            shape: of it in ONNX.
            order: the ONNX axes as they lie in the tensor.
        """
        order = list(range(len(shape)) if order is None else order)
        sizes = [shape[i] for i in order]
        axes = [[order.index(i)] for i in range(len(shape))]
        return Value(tensor, sizes, axes, self.name, self._names)


def spelled(name: str) -> str:
    """Returns the name of a node or weight in letters that a layer may have.

    Letters of other alphabets are written as their numbers, accents are left out.

    >>> spelled("/layer1/layer1.0/conv1/Conv"), spelled("/élan/層/Conv")
    ('layer1.0.conv1.Conv', 'elan.u5c64.Conv')
    """
    name = in_ascii(name)
    kept: list[str] = []
    for part in filter(None, name.split("/")):
        if kept and part.startswith(f"{kept[-1]}."):
            kept.pop()
        kept.append(part)
    word = re.sub(r"[^A-Za-z0-9_.-]+", "_", ".".join(kept)).strip("_.-")
    return word or "node"


def _rest(tensor: Any) -> Any:
    return keras.tree.map_structure(lambda one: tuple(one.shape)[1:], tensor)
