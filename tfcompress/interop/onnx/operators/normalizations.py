"""Normalizations and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value, channels_last


@operator("BatchNormalization")
def batch(call: Call) -> Value:
    if call.attribute("training_mode", 0):
        raise Refused("training_mode=1", "a model that was exported for inference")
    value, order = call.value(), None
    weights = [call.constant(index) for index in range(1, 5)]
    order = channels_last(value.rank)
    tensor = call.weighted(
        layers.BatchNormalization,
        value.laid(order),
        weights,
        axis=-1,
        epsilon=call.attribute("epsilon", 1e-5),
        # ONNX says how much is kept, as Keras does.
        momentum=call.attribute("momentum", 0.9),
    )
    return call.plain(tensor, value.shape, order)


@operator("LayerNormalization", "RMSNormalization")
def over_last(call: Call) -> Value:
    value, scale = call.value(), call.constant(1)
    first = value.axis(call.attribute("axis", -1))
    axes = list(range(first, value.rank))
    epsilon = call.attribute("epsilon", 1e-5)
    if any(len(value.axes[axis]) != 1 for axis in axes):
        value = value.in_order(value.order())
    if any(len(value.axes[axis]) != 1 for axis in axes):
        raise Refused(f"axes {axes} of {value.shape}", "axes larger than 1")
    factors = [value.axes[axis][0] for axis in axes]
    shape = value.shape[first:]
    moved = np.argsort(factors)
    lying = [np.broadcast_to(scale, shape).transpose(moved)]
    kind: Any = layers.RMSNormalization
    config: dict[str, Any] = {"axis": sorted(factors), "epsilon": epsilon}
    if call.node.kind == "LayerNormalization":
        kind, bias = layers.LayerNormalization, call.constant(2, None)
        config["center"] = bias is not None
        if bias is not None:
            lying.append(np.broadcast_to(bias, shape).transpose(moved))
    return call.result(call.weighted(kind, value.tensor, lying, **config), value)


@operator("InstanceNormalization", "GroupNormalization")
def over_groups(call: Call) -> Value:
    value, scale, bias = call.value(), call.constant(1), call.constant(2)
    order = channels_last(value.rank)
    groups = call.attribute("num_groups", value.shape[1])
    if scale.shape != (value.shape[1],):
        raise Refused(f"{scale.size} scales for {value.shape[1]} channels", "one each")
    tensor = call.weighted(
        layers.GroupNormalization,
        value.laid(order),
        [scale, bias],
        groups=groups,
        epsilon=call.attribute("epsilon", 1e-5),
    )
    return call.plain(tensor, value.shape, order)


@operator("LpNormalization")
def to_length_one(call: Call) -> Value:
    value, factor = _of_axis(call, -1)
    if call.attribute("p", 2) != 2:
        raise Refused(f"p={call.attribute('p')}", "p=2")
    tensor = call.layer(layers.UnitNormalization, value.tensor, axis=factor)
    return call.result(tensor, value)


@operator("Softmax", "LogSoftmax")
def softmax(call: Call) -> Value:
    value, factor = _of_axis(call, -1 if call.opset >= 13 else 1)
    axis = value.axis(call.attribute("axis", -1 if call.opset >= 13 else 1))
    if call.opset < 13 and max((1, *value.shape[axis + 1 :])) > 1:
        raise Refused("a softmax over several axes (before opset 13)", "over the last")
    if call.node.kind == "LogSoftmax":
        return call.result(ops.log_softmax(value.tensor, factor), value)
    tensor = call.layer(layers.Softmax, value.tensor, axis=factor)
    return call.result(tensor, value)


def _of_axis(call: Call, default: int) -> tuple[Value, int]:
    """Returns the value, and where in its tensor the axis of the node is."""
    value = call.value()
    axis = value.axis(call.attribute("axis", default))
    if len(value.axes[axis]) != 1:
        value = value.in_order(value.order())
    if len(value.axes[axis]) != 1:
        raise Refused(f"axis {axis} of {value.shape}", "an axis larger than 1")
    factor = value.axes[axis][0]
    last = len(value.sizes) - 1
    return value, -1 if factor == last else factor
