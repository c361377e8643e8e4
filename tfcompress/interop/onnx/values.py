"""Tensors of an ONNX graph as tensors of Keras, whose axes lie in another order.

PyTorch has the channels first, Keras last. A `Value` says of each axis in ONNX which
axes of the Keras tensor it consists of. So a transposition, and a reshape that joins
axes, change nothing but what is said of the tensor; work is done where a layer needs an
order. A picture that is flattened stays a picture until a dense layer reads it, and
that takes the rows of its kernel in the order in which the numbers lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.select import unused_name
from tfcompress.interop.onnx.refusing import Refused

# Numbers in a tensor, for each sample.
_MOST = 1 << 28


class Names:
    """Names of layers, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def unused(self, name: str) -> str:
        """Returns `name`, numbered if it was given before."""
        name = unused_name(name, self._given)
        self._given.add(name)
        return name


class Value:
    """A tensor of Keras, and how it lies with respect to ONNX.

    Args:
        tensor: the Keras tensor. Neighbouring axes may be one in it: they are taken
            apart where that is needed.
        sizes: of its axes; a number that divides nothing else stands for the batch.
        axes: for each axis in ONNX, the axes of the tensor that it consists of, the
            slowest first.
        name: what made it, for the names of layers that change its order.
        names: those of all layers.
    """

    def __init__(
        self,
        tensor: Any,
        sizes: Sequence[int],
        axes: Sequence[Sequence[int]],
        name: str,
        names: Names,
    ):
        self.raw, self.sizes = tensor, tuple(int(size) for size in sizes)
        # An axis of size 1 can be anywhere.
        self.axes = tuple(tuple(f for f in a if self.sizes[f] > 1) for a in axes)
        self.name, self.names = name, names
        self._laid: dict[tuple, Any] = {}
        free = [s for s, known in zip(self.sizes, tensor.shape) if known is not None]
        if math.prod(free) > _MOST:
            raise Refused(
                f"a tensor of shape {tuple(tensor.shape)}",
                f"at most {_MOST:,} numbers a sample",
            )

    @property
    def tensor(self) -> Any:
        """The Keras tensor, with each of its axes for itself."""
        return self.grouped([[f] for f in range(len(self.sizes))])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in ONNX."""
        return tuple(math.prod(self.sizes[f] for f in axis) for axis in self.axes)

    @property
    def rank(self) -> int:
        """How many axes it has in ONNX."""
        return len(self.axes)

    @property
    def dtype(self) -> str:
        """The type of its numbers."""
        return keras.backend.standardize_dtype(self.raw.dtype)

    def axis(self, index: int) -> int:
        """Returns an axis in ONNX that may be counted from the end."""
        if not -self.rank <= index < self.rank:
            raise Refused(f"axis {index} of a tensor of {self.rank} axes", "one it has")
        return index % self.rank

    def same(self, tensor: Any, name: str | None = None) -> Value:
        """Returns a value that lies as this one does."""
        return Value(tensor, self.sizes, self.axes, name or self.name, self.names)

    def renamed(self, name: str) -> Value:
        """Returns the same under another name."""
        return self.same(self.raw, name)

    def transposed(self, order: Sequence[int]) -> Value:
        """Returns the value with its ONNX axes in another order."""
        axes = [self.axes[i] for i in order]
        return Value(self.raw, self.sizes, axes, self.name, self.names)

    def reshaped(self, shape: Sequence[int]) -> Value:
        """Returns the value in another ONNX shape, whose product is that of its own."""
        found = self._split(shape)
        if found is None:  # (4, 6) as (6, 4): no axis of one is a part of the other
            flat = _reshape(self.laid(range(self.rank)), shape, self, "_reshape")
            return Value(flat, shape, [[i] for i in range(len(shape))], *self._whence())
        return found

    def laid(self, order: Sequence[int]) -> Any:
        """Returns a Keras tensor whose axes are those of ONNX in some order."""
        return self.grouped([self.axes[i] for i in order])

    def grouped(self, groups: Sequence[Sequence[int]]) -> Any:
        """Returns a tensor each of whose axes is some axes of the tensor."""
        key = tuple(map(tuple, groups))
        if key not in self._laid:
            self._laid[key] = self._grouped(key)
        return self._laid[key]

    def kept(self, groups: Sequence[Sequence[int]], axes: Sequence[Any]) -> Value:
        """Returns the value of `grouped`; `axes` are as of a `Value`."""
        sizes = [math.prod(self.sizes[f] for f in group) for group in groups]
        return Value(self.grouped(groups), sizes, axes, *self._whence())

    def in_order(self, order: Sequence[int] | None = None) -> Value:
        """Returns the value with one axis for each of ONNX, in some order."""
        order = list(range(self.rank) if order is None else order)
        groups = [self.axes[i] for i in order]
        return self.kept(groups, [[order.index(i)] for i in range(self.rank)])

    def order(self) -> list[int] | None:
        """Returns the ONNX axes as they lie in the tensor; None if they are mixed.

        Axes of size 1 are where Keras would have them.
        """
        factors = [f for axis in self.axes for f in axis]
        if any(list(a) != [*range(a[0], a[0] + len(a))] for a in self.axes if a):
            return None
        if len(set(factors)) < len(factors):
            return None
        first = [axis[0] if axis else -1 for axis in self.axes]
        lying = sorted(range(self.rank), key=first.__getitem__)
        lying = [i for i in lying if self.axes[i]]
        for wanted in (channels_last(self.rank), [*range(self.rank)]):
            if [i for i in wanted if self.axes[i]] == lying:
                return wanted
        return [*lying, *(i for i in range(self.rank) if not self.axes[i])]

    def row(self, axis: int) -> tuple[Value, np.ndarray]:
        """Returns the value with one ONNX axis last, and in which order that lies.

        All others stay where they are. The array tells of each position along the last
        axis which one it is in ONNX.
        """
        last = self.axes[axis]
        others = sorted(f for i, a in enumerate(self.axes) if i != axis for f in a)
        groups = [*([f] for f in others), sorted(last)]
        axes = [
            [len(others)] if i == axis else [others.index(f) for f in a]
            for i, a in enumerate(self.axes)
        ]
        numbers = np.arange(self.shape[axis]).reshape([self.sizes[f] for f in last])
        positions = numbers.transpose(np.argsort(last)).reshape(-1)
        return self.kept(groups, axes), positions

    def _whence(self) -> tuple[str, Names]:
        return self.name, self.names

    def _split(self, shape: Sequence[int]) -> Value | None:
        """Returns the value in another shape, if axes have to be split or joined."""
        parts = {f: [size] for f, size in enumerate(self.sizes)}
        waiting = [(f, 0) for axis in self.axes for f in axis]
        found: list[list[tuple[int, int]]] = []
        for size in shape:
            axis: list[tuple[int, int]] = []
            while size > 1:
                if not waiting:
                    return None
                factor, part = waiting[0]
                whole = parts[factor][part]
                taken = math.gcd(whole, size)
                if taken < whole:
                    if taken < size or taken == 1:
                        return None
                    parts[factor][part : part + 1] = [taken, whole // taken]
                    waiting[0:1] = [(factor, part), (factor, part + 1)]
                axis.append(waiting.pop(0))
                size //= taken
            found.append(axis)
        sizes = [size for f in range(len(self.sizes)) for size in parts[f]]
        starts = np.cumsum([0, *(len(parts[f]) for f in range(len(self.sizes)))])
        axes = [[int(starts[f]) + part for f, part in axis] for axis in found]
        return Value(self.raw, sizes, axes, *self._whence())

    def _grouped(self, groups: tuple) -> Any:
        wanted = [f for group in groups for f in group]
        tensor = self.raw
        if wanted != sorted(wanted):
            lying = sorted(wanted)
            tensor = self._in_shape(tensor, [self.sizes[f] for f in lying])
            tensor = _transpose(tensor, [lying.index(f) for f in wanted], self)
        return self._in_shape(
            tensor, [math.prod(self.sizes[f] for f in group) for group in groups]
        )

    def _in_shape(self, tensor: Any, sizes: list[int]) -> Any:
        known = [s for s in tensor.shape if s is not None]
        whole = math.prod(self.sizes)
        batch = whole // math.prod(known)
        if [batch if s is None else s for s in tensor.shape] == sizes:
            return tensor
        return _reshape(tensor, sizes, self, "")


def channels_last(rank: int) -> list[int]:
    """Returns the order in which Keras has the axes that ONNX has channels first."""
    return [0, *range(2, rank), 1] if rank > 2 else [*range(rank)]


def _transpose(tensor: Any, order: list[int], value: Value) -> Any:
    if order[0] != 0:
        return ops.transpose(tensor, order)
    name = value.names.unused(f"{value.name}_permute")
    return keras.layers.Permute(order[1:], name=name)(tensor)


def _reshape(tensor: Any, sizes: Sequence[int], value: Value, suffix: str) -> Any:
    sizes = [int(size) for size in sizes]
    free = [i for i, known in enumerate(tensor.shape) if known is None]
    if not free:
        return ops.reshape(tensor, sizes)
    known = math.prod(s for s in tensor.shape if s is not None)
    first = bool(sizes) and free == [0] and known == math.prod(sizes[1:])
    if not first:
        batch = math.prod(value.sizes) // known
        places = [i for i, size in enumerate(sizes) if size % batch == 0]
        if len(free) != 1 or len(places) != 1:
            raise Refused(f"a reshape to {sizes}", "one axis of unknown size")
        free_at = places[0]
        return ops.reshape(tensor, [*sizes[:free_at], -1, *sizes[free_at + 1 :]])
    name = value.names.unused(f"{value.name}{suffix}")
    if len(sizes) == 2 and len(tensor.shape) > 2:
        return keras.layers.Flatten(name=name)(tensor)
    return keras.layers.Reshape(sizes[1:], name=name)(tensor)
