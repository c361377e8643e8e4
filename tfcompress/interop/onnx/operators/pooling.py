"""Pooling, with what may be added around a picture."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.operators.windows import padded, windows_of
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value, channels_last

_MAX = {1: layers.MaxPooling1D, 2: layers.MaxPooling2D, 3: layers.MaxPooling3D}
_AVERAGE = {
    1: layers.AveragePooling1D,
    2: layers.AveragePooling2D,
    3: layers.AveragePooling3D,
}
_GLOBAL = {
    ("GlobalAveragePool", 1): layers.GlobalAveragePooling1D,
    ("GlobalAveragePool", 2): layers.GlobalAveragePooling2D,
    ("GlobalAveragePool", 3): layers.GlobalAveragePooling3D,
    ("GlobalMaxPool", 1): layers.GlobalMaxPooling1D,
    ("GlobalMaxPool", 2): layers.GlobalMaxPooling2D,
    ("GlobalMaxPool", 3): layers.GlobalMaxPooling3D,
}
# What they make is nowhere less than zero.
_POSITIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus")


@operator("MaxPool")
def largest(call: Call) -> Value:
    value, windows, tensor = _prepared(call, _MAX)
    if max(windows.dilations) > 1:
        raise Refused(f"dilations {windows.dilations}", "none")
    if len(call.node.outputs) > 1:
        raise Refused("indices as an output", "the largest values only")
    if windows.adds and not windows.is_same:
        before = call.before
        # Zeros are never the largest of what is not negative; elsewhere the rows at
        # the border are repeated, which are in the window anyway.
        if before is not None and before.kind in _POSITIVE:
            tensor = padded(call, tensor, windows)
        else:
            tensor = _repeated(tensor, windows)
    padding = "same" if windows.is_same else "valid"
    return _pooled(call, value, windows, tensor, _MAX, padding)


@operator("AveragePool")
def average(call: Call) -> Value:
    value, windows, tensor = _prepared(call, _AVERAGE)
    if max(windows.dilations) > 1:
        raise Refused(f"dilations {windows.dilations}", "none")
    counts_all = bool(call.attribute("count_include_pad", 0))
    same = windows.is_same and not counts_all
    if not same:
        tensor = padded_all(call, tensor, windows)
    result = _pooled(
        call, value, windows, tensor, _AVERAGE, "same" if same else "valid"
    )
    if same or not windows.adds:
        return result
    share = _counted(call, value.shape[2:], windows, counts_all)
    if np.all(share == 1):
        return result
    return call.result(result.tensor * share[..., None], result)


@operator("GlobalAveragePool", "GlobalMaxPool")
def over_all(call: Call) -> Value:
    value = call.value()
    kind = _GLOBAL.get((call.node.kind, value.rank - 2))
    if kind is None:
        raise Refused(f"{value.rank - 2} axes of space", "1 to 3")
    order = channels_last(value.rank)
    tensor = call.layer(kind, value.laid(order), keepdims=True)
    shape = (*value.shape[:2], *(1 for _ in value.shape[2:]))
    return call.plain(tensor, shape, order)


def padded_all(call: Call, tensor: Any, windows: Any) -> Any:
    """Returns the tensor with zeros around it, also where "same" adds as many."""
    return padded(call, tensor, dataclasses.replace(windows, is_same=False))


def _prepared(call: Call, kinds: dict) -> tuple[Value, Any, Any]:
    value = call.value()
    if value.rank - 2 not in kinds:
        raise Refused(f"{value.rank - 2} axes of space", "1 to 3")
    windows = windows_of(call, value.shape[2:], tuple(call.attribute("kernel_shape")))
    return value, windows, value.laid(channels_last(value.rank))


def _repeated(tensor: Any, windows: Any) -> Any:
    """Returns the tensor with its border repeated around it."""
    for axis, (before, after) in enumerate(zip(windows.before, windows.after), 1):
        size = tensor.shape[axis]
        parts = [tensor]
        if before:
            parts.insert(0, ops.repeat(_part(tensor, axis, 0), before, axis))
        if after:
            parts.append(ops.repeat(_part(tensor, axis, size - 1), after, axis))
        if len(parts) > 1:
            tensor = ops.concatenate(parts, axis)
    return tensor


def _part(tensor: Any, axis: int, index: int) -> Any:
    where = [slice(None)] * len(tensor.shape)
    where[axis] = slice(index, index + 1)
    return tensor[tuple(where)]


def _pooled(
    call: Call, value: Value, windows: Any, tensor: Any, kinds: dict, padding: str
) -> Value:
    tensor = call.layer(
        kinds[windows.rank],
        tensor,
        pool_size=windows.kernel,
        strides=windows.strides,
        padding=padding,
    )
    shape = (*value.shape[:2], *windows.sizes)
    if tuple(tensor.shape)[1:-1] != windows.sizes:
        raise Refused(f"an output of shape {tensor.shape}", f"{windows.sizes}")
    return call.plain(tensor, shape, channels_last(len(shape)))


def _counted(
    call: Call, space: tuple[int, ...], windows: Any, counts_all: bool
) -> np.ndarray:
    """Returns what averages of whole windows are times, for each position."""
    share = np.ones((1,) * (windows.rank + 1), "float32")
    pads = call.attribute("pads", (0,) * 2 * windows.rank)
    for axis, size in enumerate(space):
        kernel, before = windows.kernel[axis], windows.before[axis]
        low, high = 0, size
        if counts_all:
            low, high = -before, size + pads[windows.rank + axis]
        starts = np.arange(windows.sizes[axis]) * windows.strides[axis] - before
        counts = np.minimum(starts + kernel, high) - np.maximum(starts, low)
        shape = [1] * (windows.rank + 1)
        shape[axis + 1] = -1
        share = share * (kernel / counts).astype("float32").reshape(shape)
    return share
