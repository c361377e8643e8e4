"""Sums, means and extremes along axes."""

from __future__ import annotations

from collections.abc import Callable

from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value

_FUNCTIONS: dict[str, Callable] = {
    "ReduceL2": lambda x, axis, keepdims: ops.sqrt(
        ops.sum(ops.square(x), axis, keepdims)
    ),
    "ReduceL1": lambda x, axis, keepdims: ops.sum(ops.abs(x), axis, keepdims),
    "ReduceLogSumExp": ops.logsumexp,
    "ReduceMax": ops.max,
    "ReduceMean": ops.mean,
    "ReduceMin": ops.min,
    "ReduceProd": ops.prod,
    "ReduceSum": ops.sum,
    "ReduceSumSquare": lambda x, axis, keepdims: ops.sum(ops.square(x), axis, keepdims),
}
_POOLING = {
    ("ReduceMean", 3): layers.GlobalAveragePooling1D,
    ("ReduceMean", 4): layers.GlobalAveragePooling2D,
    ("ReduceMean", 5): layers.GlobalAveragePooling3D,
    ("ReduceMax", 3): layers.GlobalMaxPooling1D,
    ("ReduceMax", 4): layers.GlobalMaxPooling2D,
    ("ReduceMax", 5): layers.GlobalMaxPooling3D,
}


@operator(*_FUNCTIONS)
def reduced(call: Call) -> Value:
    value = call.value()
    axes = call.axes(value)
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return value
        axes = list(range(value.rank))
    if any(value.shape[axis] % call.batch == 0 for axis in axes):
        raise Refused(f"axes {axes}, which include the samples", "axes of one sample")
    kept = bool(call.attribute("keepdims", 1))
    factors = sorted(f for axis in axes for f in value.axes[axis])
    if factors:
        kind = _POOLING.get((call.node.kind, len(value.sizes)))
        if kind and factors == [*range(1, len(value.sizes) - 1)]:
            tensor = (
                call.layer(kind, value.tensor, keepdims=True)
                if kept
                else (call.layer(kind, value.tensor))
            )
        else:
            function = _FUNCTIONS[call.node.kind]
            tensor = function(value.tensor, axis=tuple(factors), keepdims=kept)
    else:
        tensor, kept = value.tensor, True
        if call.node.kind in ("ReduceL1", "ReduceL2", "ReduceSumSquare"):
            raise Refused(f"axes {axes} of size 1", "larger axes")
    return _without(call, value, tensor, axes, factors, kept)


@operator("ArgMax", "ArgMin")
def place(call: Call) -> Value:
    value, axis = call.value(), call.attribute("axis", 0)
    axis = value.axis(axis)
    if len(value.axes[axis]) != 1:
        value = value.in_order(value.order())
    if len(value.axes[axis]) != 1 or value.shape[axis] % call.batch == 0:
        raise Refused(f"axis {axis} of {value.shape}", "an axis of one sample")
    if call.attribute("select_last_index", 0):
        raise Refused("select_last_index=1", "the first of equal values")
    function = ops.argmax if call.node.kind == "ArgMax" else ops.argmin
    kept = bool(call.attribute("keepdims", 1))
    tensor = function(value.tensor, axis=value.axes[axis][0], keepdims=kept)
    return _without(call, value, tensor, [axis], list(value.axes[axis]), kept)


def _without(
    call: Call, value: Value, tensor: object, axes: list, factors: list, kept: bool
) -> Value:
    """Returns the value whose axes were reduced."""
    keeps_axes = bool(call.attribute("keepdims", 1))
    sizes = [1 if f in factors else n for f, n in enumerate(value.sizes)]
    left = list(range(len(sizes)))
    if not kept:
        left = [f for f in left if f not in factors]
    found = [
        [left.index(f) for f in axis if f in left]
        for i, axis in enumerate(value.axes)
        if keeps_axes or i not in axes
    ]
    return Value(tensor, [sizes[f] for f in left], found, call.name, value.names)
