"""`keras.ops` in a Functional graph: the layers that they are under another name."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.layers.integer_form import Expansion, Parts, StaysFloat
from tfcompress.quantization.expansions.base import expansion, nothing
from tfcompress.quantization.primitives import AddConstant, Bounded

_MERGES = {
    "Add": layers.Add,
    "Subtract": layers.Subtract,
    "Multiply": layers.Multiply,
    "Maximum": layers.Maximum,
    "Minimum": layers.Minimum,
}
_ACTIVATIONS = {"Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _constant(value: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.convert_to_tensor(value)).astype("float32")


def _merge(name: str) -> Expansion:
    def merge(operation: Any, parts: Parts, x1: Any, x2: Any) -> Any:
        if _is_tensor(x1) and _is_tensor(x2):
            x1, x2 = _with_axes_of(x1, x2), _with_axes_of(x2, x1)
            if len(x1.shape) != len(x2.shape):
                raise StaysFloat(
                    f"its tensors have {len(x1.shape)} and {len(x2.shape)} axes",
                    "reshape them to the same number of axes",
                )
            if name == "Subtract" and x1 is x2:
                return nothing(parts, x1)
            return parts(_MERGES[name])([x1, x2])
        return _with_constant(name, parts, x1, x2)

    return merge


def _with_axes_of(x: Any, other: Any) -> Any:
    """Returns a weight, which has no axis for the batch, with as many axes."""
    while None not in x.shape and len(x.shape) < len(other.shape):
        x = ops.expand_dims(x, 0)
    return x


def _with_constant(name: str, parts: Parts, x1: Any, x2: Any) -> Any:
    """`x + 1` and the like: a scale and an offset."""
    tensor, other = (x1, _constant(x2)) if _is_tensor(x1) else (x2, _constant(x1))
    scale: Any = np.float32(1)
    offset: Any = np.float32(0)
    if name == "Add":
        offset = other
    elif name == "Multiply":
        scale = other
    elif name == "Subtract":
        scale, offset = (scale, -other) if tensor is x1 else (-scale, other)
    elif name == "Maximum" and not np.any(other) and other.size == 1:
        return parts(layers.Activation, activation="relu")(tensor)
    else:
        return None  # the larger or smaller of it and a number
    channels = tensor.shape[-1]
    if other.size == 1 or (other.size == channels and other.shape[-1] == channels):
        return parts(
            layers.Rescaling,
            scale=np.reshape(scale, -1).tolist() if scale.size > 1 else scale.item(),
            offset=np.reshape(offset, -1).tolist()
            if offset.size > 1
            else offset.item(),
        )(tensor)
    shape = other.shape[1:] if other.ndim == len(tensor.shape) else other.shape
    if name == "Multiply" or scale != 1 or shape != tuple(tensor.shape[1:]):
        raise StaysFloat(
            f"its constant has shape {other.shape}",
            "use a number, one value for each channel, or add a whole sample",
        )
    return parts(AddConstant, value=offset.reshape(shape))(tensor)


for _name in _MERGES:
    expansion(_name)(_merge(_name))
for _name, _activation in _ACTIVATIONS.items():
    expansion(_name)(
        lambda operation, parts, x, _activation=_activation: parts(
            layers.Activation, activation=_activation
        )(x)
    )


@expansion("Matmul")
def matmul(operation: Any, parts: Parts, x1: Any, x2: Any) -> Any:
    """A product with a fixed matrix is a Dense layer that does not train."""
    if _is_tensor(x1) and _is_tensor(x2):
        return None
    tensor, matrix = (x1, _constant(x2)) if _is_tensor(x1) else (x2, _constant(x1))
    last = tensor is x1
    if matrix.ndim != 2 or len(tensor.shape) < (2 if last else 3):
        raise StaysFloat(
            f"its constant has shape {matrix.shape}", "use a constant of two axes"
        )
    kernel = matrix if last else matrix.T
    rank = len(tensor.shape)
    order = (*range(rank - 2), rank - 1, rank - 2)
    dense = parts(
        layers.Dense,
        weights=[kernel],
        units=kernel.shape[1],
        use_bias=False,
        trainable=False,
    )
    if last:
        return dense(tensor)
    return ops.transpose(dense(ops.transpose(tensor, order)), order)


@expansion("TrueDivide", "Divide")
def divide(operation: Any, parts: Parts, x1: Any, x2: Any) -> Any:
    if not _is_tensor(x1) or _is_tensor(x2):
        raise StaysFloat(
            "it divides by a tensor", "divide by constants, or leave it to the caller"
        )
    return _with_constant("Multiply", parts, x1, 1.0 / _constant(x2))


@expansion("Negative")
def negative(operation: Any, parts: Parts, x: Any) -> Any:
    return parts(layers.Rescaling, scale=-1.0)(x)


@expansion("Absolute", "Abs")
def absolute(operation: Any, parts: Parts, x: Any) -> Any:
    return parts(layers.Maximum)(
        [x, parts(layers.Rescaling, "_negative", scale=-1.0)(x)]
    )


@expansion("Flip")
def flip(operation: Any, parts: Parts, x: Any) -> Any:
    """Slices backwards: LiteRT's REVERSE has no kernel for integers."""
    axes = range(len(x.shape)) if operation.axis is None else operation.axis
    return _backwards(x, axes)


def _backwards(x: Any, axes: Any) -> Any:
    turned = {axis % len(x.shape) for axis in np.atleast_1d(axes)}
    if 0 in turned:
        raise StaysFloat("it turns the samples of a batch", "name the other axes")
    steps = (-1 if axis in turned else None for axis in range(len(x.shape)))
    return x[tuple(slice(None, None, step) for step in steps)]


@expansion("Rot90")
def rotated(operation: Any, parts: Parts, array: Any) -> Any:
    """A rotation is an exchange of two axes, and one of them backwards."""
    first, second = operation.axes
    quarters = operation.k % 4
    if quarters == 0:
        return array
    sizes = {array.shape[first], array.shape[second]}
    if quarters == 2 and (None in sizes or len(sizes) > 1):
        # Keras 3.15 puts the numbers of a rectangle into rows of another length.
        raise StaysFloat(
            "it turns a rectangle half round, which Keras computes in a way of its own",
            "use ops.flip(x, (1, 2))",
        )
    if quarters == 2:
        return _backwards(array, (first, second))
    exchanged = ops.swapaxes(array, first, second)
    return _backwards(exchanged, first if quarters == 1 else second)


@expansion("Square")
def square(operation: Any, parts: Parts, x: Any) -> Any:
    return parts(layers.Multiply)([x, x])


@expansion("Power")
def power(operation: Any, parts: Parts, x1: Any, x2: Any) -> Any:
    squared = _is_tensor(x1) and not _is_tensor(x2) and np.all(_constant(x2) == 2)
    if not squared:
        raise StaysFloat("its exponent is not 2", "use ops.square or products")
    return parts(layers.Multiply)([x1, x1])


@expansion("Clip")
def clip(operation: Any, parts: Parts, x: Any) -> Any:
    low, high = operation.x_min, operation.x_max
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if numbers and low <= 0 <= high and low != high:
        return parts(Bounded, low=low, high=high)(x)
    # Bounds on one side of zero are numbers that the range must contain.
    for bound, function in ((low, ops.maximum), (high, ops.minimum)):
        if bound is not None:
            x = function(x, bound)
    return x


@expansion("FullLike", "OnesLike", "ZerosLike")
def filled(operation: Any, parts: Parts, x: Any, fill_value: Any = None) -> Any:
    """A number in the shape of a tensor: the tensor times zero, and the number."""
    constant = 1.0 if type(operation).__name__ == "OnesLike" else 0.0
    value = constant if fill_value is None else _constant(fill_value)
    if _is_tensor(fill_value) or np.size(value) != 1 or "float" not in x.dtype:
        return None
    return parts(layers.Rescaling, scale=0.0, offset=float(np.reshape(value, ())))(x)


@expansion("Softmax")
def softmax(operation: Any, parts: Parts, x: Any) -> Any:
    return parts(layers.Softmax, axis=operation.axis)(x)


@expansion("Concatenate")
def concatenate(operation: Any, parts: Parts, xs: Any) -> Any:
    if not all(map(_is_tensor, xs)):
        return None
    return parts(layers.Concatenate, axis=operation.axis)(xs)


@expansion("Append")
def append(operation: Any, parts: Parts, x1: Any, x2: Any) -> Any:
    if operation.axis is None or not (_is_tensor(x1) and _is_tensor(x2)):
        return None
    return parts(layers.Concatenate, axis=operation.axis)([x1, x2])


@expansion("Mean")
def mean(operation: Any, parts: Parts, x: Any) -> Any:
    """A mean over all positions is a global pooling."""
    rank, axis = len(x.shape), operation.axis
    axis = range(rank) if axis is None else axis
    axes = {a % rank for a in ([axis] if isinstance(axis, int) else axis)}
    if rank == 4 and axes == {1, 2}:
        kind: type = layers.GlobalAveragePooling2D
    elif rank == 3 and axes == {1}:
        kind = layers.GlobalAveragePooling1D
    else:
        return None
    return parts(kind, keepdims=operation.keepdims, data_format="channels_last")(x)


@expansion("Split")
def split(operation: Any, parts: Parts, x: Any) -> Any:
    """Slices: LiteRT's own operation wants a range on every output, read or not."""
    axis, size = operation.axis % len(x.shape), x.shape[operation.axis]
    given = operation.indices_or_sections
    if size is None:
        raise StaysFloat("the axis that it splits is free", "give it a fixed size")
    if isinstance(given, int):
        edges = list(range(0, size + 1, size // given))
    else:
        edges = [0, *map(int, given), size]
    before = (slice(None),) * axis
    return [x[(*before, slice(a, b))] for a, b in itertools.pairwise(edges)]


@expansion("Unstack")
def unstack(operation: Any, parts: Parts, x: Any) -> Any:
    axis, size = operation.axis % len(x.shape), x.shape[operation.axis]
    if size is None:
        raise StaysFloat("the axis that it splits is free", "give it a fixed size")
    return [x[(*(slice(None),) * axis, index)] for index in range(size)]
