"""Activations and arithmetic: each number for itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.operators.dense import widened
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value, channels_last

_ACTIVATIONS = {
    "Gelu": "gelu",
    "HardSwish": "hard_silu",
    "Mish": "mish",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Swish": "silu",
    "Tanh": "tanh",
}
# Options that Keras has with one value each.
_ONLY: dict[str, dict[str, float]] = {
    "Selu": {"alpha": 1.67326319, "gamma": 1.05070102},
    "Swish": {"alpha": 1.0},
}
_OF_ONE: dict[str, Callable] = {
    "Abs": ops.abs,
    "Ceil": ops.ceil,
    "Cos": ops.cos,
    "Erf": ops.erf,
    "Exp": ops.exp,
    "Floor": ops.floor,
    "Log": ops.log,
    "Neg": ops.negative,
    "Not": ops.logical_not,
    "Reciprocal": ops.reciprocal,
    "Round": ops.round,
    "Sign": ops.sign,
    "Sin": ops.sin,
    "Sqrt": ops.sqrt,
}
# Layers where both operands are tensors, operations where one is a constant.
_OF_TWO: dict[str, tuple[type | None, Callable]] = {
    "Add": (layers.Add, ops.add),
    "Sum": (layers.Add, ops.add),
    "Sub": (layers.Subtract, ops.subtract),
    "Mul": (layers.Multiply, ops.multiply),
    "Max": (layers.Maximum, ops.maximum),
    "Min": (layers.Minimum, ops.minimum),
    "Mean": (layers.Average, ops.add),
    "Div": (None, ops.divide),
    "Pow": (None, ops.power),
    "And": (None, ops.logical_and),
    "Or": (None, ops.logical_or),
    "Xor": (None, ops.logical_xor),
    "Equal": (None, ops.equal),
    "Greater": (None, ops.greater),
    "GreaterOrEqual": (None, ops.greater_equal),
    "Less": (None, ops.less),
    "LessOrEqual": (None, ops.less_equal),
    "Where": (None, ops.where),
}


@operator("Relu")
def relu(call: Call) -> Value:
    return _layer(call, layers.ReLU)


@operator("LeakyRelu")
def leaky(call: Call) -> Value:
    return _layer(call, layers.LeakyReLU, negative_slope=call.attribute("alpha", 0.01))


@operator("Elu")
def elu(call: Call) -> Value:
    return _layer(call, layers.ELU, alpha=call.attribute("alpha", 1.0))


@operator("PRelu")
def learned(call: Call) -> Value:
    value, slope = call.value(), call.constant(1)
    order = channels_last(value.rank)
    whole = np.broadcast_to(slope, (1,) * max(0, value.rank - slope.ndim) + slope.shape)
    lying = whole.transpose(order)[0]
    shared = [axis for axis, size in enumerate(lying.shape, 1) if size == 1]
    fits = all(s in (1, value.shape[i]) for s, i in zip(lying.shape, order[1:]))
    if whole.shape[0] != 1 or not fits:
        raise Refused(f"slopes of shape {slope.shape}", "one, or one a channel")
    tensor = call.weighted(layers.PReLU, value.laid(order), [lying], shared_axes=shared)
    return call.plain(tensor, value.shape, order)


@operator(*_ACTIVATIONS)
def activation(call: Call) -> Value:
    kind = call.node.kind
    if call.attribute("approximate", "none") != "none":
        value = call.value()
        return call.result(ops.gelu(value.raw, approximate=True), value)
    for name, wanted in _ONLY.get(kind, {}).items():
        if not math.isclose(call.attribute(name, wanted), wanted, rel_tol=1e-5):
            raise Refused(f"{name}={call.attribute(name)}", f"{name}={wanted}")
    return _layer(call, layers.Activation, activation=_ACTIVATIONS[kind])


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Value:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return _layer(call, layers.Activation, activation="hard_sigmoid")
    value = call.value()
    return call.result(ops.clip(value.raw * alpha + beta, 0.0, 1.0), value)


@operator("Clip")
def clip(call: Call) -> Value:
    low = call.setting("min", 1, -math.inf)
    high = call.setting("max", 2, math.inf)
    if low == 0 and high > 0:
        limit = {} if high > 3e38 else {"max_value": high}
        return _layer(call, layers.ReLU, **limit)
    value = call.value()
    return call.result(ops.clip(value.raw, low, high), value)


@operator("ThresholdedRelu")
def thresholded(call: Call) -> Value:
    value = call.value()
    limit = call.attribute("alpha", 1.0)
    return call.result(ops.threshold(value.raw, limit, 0.0), value)


@operator(*_OF_ONE)
def of_one(call: Call) -> Value:
    value = call.value()
    return call.result(_OF_ONE[call.node.kind](value.raw), value)


@operator("Identity", "Dropout")
def same(call: Call) -> Value:
    return call.value()


@operator("Cast", "CastLike")
def cast(call: Call) -> Value:
    import onnx

    value = call.value()
    if call.node.kind == "CastLike":
        to = np.dtype(getattr(call.inputs[1], "dtype", "float32"))
    else:
        to = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(call.attribute("to")))
    # Floats of any size are float32 here, and integers int32.
    kind = {"b": "bool", "i": "int32", "u": "int32"}.get(to.kind, "float32")
    if value.dtype == kind:
        return value
    return call.result(ops.cast(value.raw, kind), value)


@operator(*_OF_TWO)
def of_several(call: Call) -> Value:
    layer, operation = _OF_TWO[call.node.kind]
    tensors, like = together(call)
    if len(tensors) == 1:
        return call.result(tensors[0], like)
    if layer is not None and all(isinstance(one, Value) for one in call.inputs):
        return call.result(call.layer(layer, tensors), like)
    if call.node.kind == "Where":
        return call.result(operation(*tensors), like)
    tensor = tensors[0]
    for other in tensors[1:]:
        tensor = operation(tensor, other)
    if call.node.kind == "Mean":
        tensor = tensor / len(tensors)
    return call.result(tensor, like)


def together(call: Call) -> tuple[list[Any], Value]:
    """Returns all inputs in one layout, and a value that lies as what they make."""
    given = [one for one in call.inputs if one is not None]
    arrays = {
        index: _without_batch(one, call.batch)
        for index, one in enumerate(given)
        if not isinstance(one, Value)
    }
    rank = max(len(one.shape) for one in given)
    values = {
        index: widened(one, rank) if one.rank < rank else one
        for index, one in enumerate(given)
        if isinstance(one, Value)
    }
    full = max(values.values(), key=lambda value: math.prod(value.shape))
    shapes = [v.shape for v in values.values()] + [a.shape for a in arrays.values()]
    shape = tuple(int(n) for n in np.broadcast_shapes(*shapes))
    alike = {(value.sizes, value.axes) for value in values.values()}
    if len(alike) > 1 or shape != full.shape:
        order = full.order() or list(range(rank))
        values = {index: value.in_order(order) for index, value in values.items()}
        like = Value(
            full.laid(order),
            [shape[i] for i in order],
            [[order.index(i)] for i in range(rank)],
            call.name,
            full.names,
        )
    else:
        like = full
    tensors: list[Any] = []
    for index in range(len(given)):
        if index in values:
            tensors.append(values[index].tensor)
        else:
            tensors.append(_lying(call, arrays[index], like, index))
    return tensors, like


def _lying(call: Call, array: np.ndarray, like: Value, index: int) -> Any:
    """Returns a constant as a value lies: a number, a weight, or an array."""
    if array.size == 1:
        return array.reshape(()).item()
    array = array.reshape((1,) * (like.rank - array.ndim) + array.shape)
    # Each axis in its parts, then these in the order of the tensor.
    factors: list[int] = []
    sizes: list[int] = []
    for axis, size in zip(like.axes, array.shape):
        factors += axis
        sizes += [like.sizes[f] if size > 1 else 1 for f in axis]
    array = array.reshape(sizes).transpose(np.argsort(factors))
    free = [f for f in range(len(like.sizes)) if f not in factors]
    array = np.expand_dims(array, free)
    if array.dtype.kind == "f" and np.all(np.isfinite(array)):
        return call.held(array, like, index)
    return array


def _without_batch(array: np.ndarray, batch: int) -> np.ndarray:
    """Returns a constant that was made for each sample of a batch once."""
    for axis, size in enumerate(array.shape):
        if size == batch:
            first = array.take([0], axis)
            if not np.array_equal(np.broadcast_to(first, array.shape), array):
                raise Refused("a constant that differs from sample to sample", "one")
            array = first
    return array


def _layer(call: Call, kind: type, **config: Any) -> Value:
    value = call.value()
    return call.result(call.layer(kind, value.raw, **config), value)
