"""Inputs of an ONNX model: which axis is the batch, and how they lie in Keras."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError, UnsupportedLayerError
from tfcompress.interop.onnx.call import spelled
from tfcompress.interop.onnx.reading import File, Port
from tfcompress.interop.onnx.values import Names, channels_last


class Inputs:
    """The inputs of a model, with sizes for all axes.

    Args:
        file: what was read.
        given: shapes by input that the user gives for free axes.

    Attributes:
        ports: the inputs as they are in the file.
        batch: a prime number that stands for the size of a batch, and divides no other
            size.
        fixed: the size of a batch for which the file was written; None if it is free.
        shapes: by input, with `batch` for the size of a batch.
    """

    def __init__(self, file: File, given: Mapping[str, Sequence[int | None]] | None):
        self.ports = _with_shapes(file, dict(given or {}))
        self.batch = _stranger(file)
        axes = {port.name: _batch_axis(port, file) for port in self.ports}
        fixed = [axis is None for axis in axes.values()]
        self.fixed = self._fixed(file) if all(fixed) else None
        self.shapes: dict[str, list[int]] = {}
        for port in self.ports:
            axis = axes[port.name]
            axis = 0 if axis is None and self.fixed else axis
            self.shapes[port.name] = [
                self.batch if i == axis else int(size or 0)
                for i, size in enumerate(port.sizes)
            ]
            if axis is None:
                raise UnsupportedLayerError(
                    f"Input '{port.name}' has no axis of samples, and others have.",
                    received=f"{file.path}, {_told(port)}",
                    expected="an axis whose size is free in all inputs",
                    fix="export with dynamic_axes (dynamic_shapes) for all inputs",
                )

    def order(self, port: Port, picture: bool) -> list[int]:
        """Returns the ONNX axes in the order in which Keras gets them."""
        shape = self.shapes[port.name]
        if shape[0] == self.batch and (picture or len(shape) > 3):
            return channels_last(len(shape))
        samples = shape.index(self.batch)
        return [samples, *(i for i in range(len(shape)) if i != samples)]

    def tensor(self, port: Port, order: list[int], names: Names) -> Any:
        """Returns the Keras input."""
        shape = [self.shapes[port.name][i] for i in order]
        kind = {"b": "bool", "i": "int32", "u": "int32"}.get(port.dtype[0], "float32")
        return keras.Input(
            shape=shape[1:], dtype=kind, name=names.unused(spelled(port.name))
        )

    def _fixed(self, file: File) -> int:
        found = {port.sizes[0] for port in self.ports if port.sizes}
        if len(found) != 1 or not all(port.sizes for port in self.ports):
            raise UnsupportedLayerError(
                "It cannot be told which axis of the inputs is that of the samples.",
                received=f"{file.path}, {'; '.join(map(_told, self.ports))}",
                expected="one size along the first axis of all inputs, or one that is "
                "free",
                fix="export with dynamic_axes={'x': {0: 'batch'}}, or with "
                "dynamic_shapes",
            )
        return int(found.pop() or 0)


def _with_shapes(file: File, given: dict[str, Sequence[int | None]]) -> list[Port]:
    names = [port.name for port in file.inputs]
    if not names:
        raise UnsupportedLayerError(
            "The ONNX model has no inputs.",
            received=f"{file.path}",
            expected="a model of at least one input",
        )
    for name, shape in given.items():
        if name not in names:
            raise InvalidArgumentError(
                "`input_shapes` names an input that the model does not have.",
                received=repr(name),
                expected=f"one of {', '.join(names)}",
            )
        port = file.inputs[names.index(name)]
        fits = len(shape) == len(port.sizes) and all(
            mine in (None, size) or size is None
            for mine, size in zip(port.sizes, shape)
        )
        if not fits:
            raise InvalidArgumentError(
                f"`input_shapes` does not fit input '{name}'.",
                received=f"{tuple(shape)}",
                expected=_told(port),
            )
        file.inputs[names.index(name)] = dataclasses.replace(port, sizes=tuple(shape))
    return file.inputs


def _batch_axis(port: Port, file: File) -> int | None:
    free = [i for i, size in enumerate(port.sizes) if size is None]
    if len(free) > 1:
        example = tuple(
            None if i == free[0] else size or 64 for i, size in enumerate(port.sizes)
        )
        raise UnsupportedLayerError(
            f"Input '{port.name}' has more than one axis of free size.",
            received=f"{file.path}, {_told(port)}",
            expected="sizes of all axes but that of the samples",
            fix=f"say them: from_onnx(path, input_shapes={{{port.name!r}: {example}}})",
        )
    if any(size == 0 for size in port.sizes):
        raise UnsupportedLayerError(
            f"Input '{port.name}' has an axis of size 0.",
            received=f"{file.path}, {_told(port)}",
            expected="axes of at least one",
        )
    return free[0] if free else None


def _told(port: Port) -> str:
    sizes = (
        label if size is None else str(size)
        for size, label in zip(port.sizes, port.labels)
    )
    return f"'{port.name}' of shape ({', '.join(sizes)})"


def _stranger(file: File) -> int:
    """Returns a prime number that divides no size in the file."""
    sizes = {int(n) for array in file.constants.values() for n in array.shape}
    sizes |= {n for port in file.inputs for n in port.sizes if n}
    for array in file.constants.values():
        if array.dtype.kind == "i" and array.size < 64:
            sizes |= {abs(int(n)) for n in array.reshape(-1)}
    return next(
        number
        for number in range(101, 1 << 20)
        if all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
        and not any(size and size % number == 0 for size in sizes)
    )
