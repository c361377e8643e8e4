"""Activations that integer kernels compute only in several steps.

Each step is an operation whose 8-bit kernel is exact: a lookup in a table (exp, log,
sigmoid, tanh, gelu), the larger of two numbers, a product, or a scale and offset.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from tfcompress.core.copies import clone_operation
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.activations import KERNELS, activation_name
from tfcompress.quantization.expansions.base import MASKED, expansion
from tfcompress.quantization.primitives import Bounded


@expansion(layers.Activation)
def activation(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """Expands an activation by its name, a function of the user's by running it.

    An activation may be a layer, too.
    """
    function = layer.activation
    if isinstance(function, keras.Layer):
        copy = clone_operation(function, name=f"{layer.name}_{function.name}")
        return parts.add(copy, function.get_weights() or None)(x)
    name = activation_name(layer) or _description(function)
    builtin = str(getattr(function, "__module__", "")).startswith("keras.")
    if builtin and name in KERNELS:
        return None
    if builtin and name in _BY_NAME:
        return _BY_NAME[name](parts, x)
    if builtin:
        raise StaysFloat(
            f"LiteRT has no integer kernel for its activation '{name}'",
            f"use one of {', '.join(sorted(KNOWN))}",
        )
    return _as_operations(function, x)


def _description(function: Any) -> str:
    """Returns what to call a function that may have no name."""
    inner = getattr(function, "func", None)  # a functools.partial
    if inner is not None:
        return f"partial({_description(inner)})"
    return getattr(function, "__name__", None) or type(function).__name__


def _as_operations(function: Any, x: Any) -> Any:
    """Returns what a function of the user's records when run on a symbolic tensor."""
    name = _description(function)
    try:
        outputs = function(x)
    except Exception as error:
        raise StaysFloat(
            f"its activation '{name}' does not run on symbolic tensors",
            "write it with keras.ops",
        ) from error
    if not isinstance(outputs, keras.KerasTensor):
        raise StaysFloat(
            f"its activation '{name}' returns {type(outputs).__name__}",
            "write it with keras.ops",
        )
    return outputs


@expansion(layers.ReLU)
def relu(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """Sets bounds, or a slope for negative numbers."""
    if activation_name(layer) in ("relu", "relu6"):
        return None
    slope, largest = layer.negative_slope, layer.max_value
    if layer.threshold:
        # What passes is compared with a number, and the rest is zero or sloped.
        outputs = ops.where(ops.greater(x, layer.threshold), x, 0.0)
    elif slope and largest is None:
        return leaky(parts, x, slope)
    else:
        outputs = x
    if largest is not None:
        suffix = "_bounded" if slope else ""
        outputs = parts(Bounded, suffix, low=0.0, high=largest)(outputs)
    elif not layer.threshold or slope:
        outputs = parts(layers.Activation, "_positive", activation="relu")(outputs)
    if not slope:
        return outputs
    below = parts(layers.Rescaling, "_below", scale=-1.0, offset=layer.threshold)(x)
    below = parts(layers.Activation, "_sloped", activation="relu")(below)
    return parts(layers.Add)(
        [outputs, parts(layers.Rescaling, "_scaled", scale=-slope)(below)]
    )


@expansion(layers.LeakyReLU, "LeakyRelu")
def leaky_relu(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    return leaky(parts, x, float(layer.negative_slope))


@expansion(layers.ELU)
def elu_layer(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    return elu(parts, x, float(layer.alpha))


@expansion(layers.Softmax)
def softmax(layer: Any, parts: Parts, x: Any, mask: Any = None, **_: Any) -> Any:
    """Over the last axis, of what a mask lets through."""
    rank = len(x.shape)
    axis = layer.axis
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    if not isinstance(axis, int):
        raise StaysFloat(
            f"it is taken over the axes {tuple(axis)} at once",
            "reshape these axes to one before it",
        )
    last = axis % rank == rank - 1
    if last and mask is None:
        return None
    if mask is not None:
        if keras.backend.standardize_dtype(mask.dtype) != "bool":
            mask = ops.greater(mask, 0.5)
        x = ops.where(mask, x, MASKED)
    x = x if last else ops.swapaxes(x, axis, -1)
    x = parts(layers.Softmax)(x)
    x = x if last else ops.swapaxes(x, axis, -1)
    return x if mask is None else ops.where(mask, x, 0.0)


def leaky(parts: Parts, x: Any, slope: float = 0.2) -> Any:
    """`max(x, slope * x)`: LiteRT's own kernel has 8 fractional bits only."""
    if not 0 <= slope <= 1:
        raise StaysFloat(f"its slope is {slope}", "use a slope between 0 and 1")
    low = parts(layers.Rescaling, "_scaled", scale=slope)(x)
    return parts(layers.Maximum)([x, low])


def elu(parts: Parts, x: Any, alpha: float = 1.0, scale: float = 1.0) -> Any:
    """`scale * (max(x, 0) + alpha * (exp(min(x, 0)) - 1))`."""
    positive = parts(layers.Activation, "_positive", activation="relu")(x)
    if scale != 1:
        positive = parts(layers.Rescaling, "_scaled", scale=scale)(positive)
    power = ops.exp(ops.minimum(x, 0.0))
    factor = scale * alpha
    shifted = parts(layers.Rescaling, "_shifted", scale=factor, offset=-factor)
    return parts(layers.Add)([positive, shifted(power)])


@expansion("ReLU")
def relu_operation(operation: Any, parts: Parts, x: Any) -> Any:
    """`keras.activations.relu` with arguments."""
    names = ("max_value", "negative_slope", "threshold")
    options = {name: getattr(operation, name) for name in names}
    return parts(layers.ReLU, **options)(x)


def celu(parts: Parts, x: Any, alpha: float = 1.0) -> Any:
    """`max(x, 0) + alpha * (exp(min(x, 0) / alpha) - 1)`."""
    if alpha == 1:
        return elu(parts, x)
    positive = parts(layers.Activation, "_positive", activation="relu")(x)
    power = ops.exp(ops.minimum(x, 0.0) / alpha)
    shifted = parts(layers.Rescaling, "_shifted", scale=alpha, offset=-alpha)
    return parts(layers.Add)([positive, shifted(power)])


def selu(parts: Parts, x: Any) -> Any:
    """Source: Klambauer et al., 2017, for the constants."""
    return elu(parts, x, 1.6732632423543772, 1.0507009873554805)


def softplus(parts: Parts, x: Any, suffix: str = "") -> Any:
    """`max(x, 0) + log(1 + exp(-|x|))`, in which nothing overflows."""
    positive = parts(layers.Activation, f"{suffix}_positive", activation="relu")(x)
    power = ops.exp(parts(layers.Minimum, f"{suffix}_below")([x, _negative(parts, x)]))
    shifted = parts(layers.Rescaling, f"{suffix}_shifted", scale=1.0, offset=1.0)(power)
    return parts(layers.Add, suffix)([positive, ops.log(shifted)])


def mish(parts: Parts, x: Any) -> Any:
    gate = parts(layers.Activation, "_gate", activation="tanh")
    return parts(layers.Multiply)([x, gate(softplus(parts, x, "_softplus"))])


def log_sigmoid(parts: Parts, x: Any) -> Any:
    return parts(layers.Rescaling, "_result", scale=-1.0)(
        softplus(parts, _negative(parts, x), "_softplus")
    )


def softsign(parts: Parts, x: Any) -> Any:
    """`x * exp(-log(1 + |x|))`: there is no integer division."""
    size = parts(layers.Maximum, "_size")([x, _negative(parts, x)])
    shifted = parts(layers.Rescaling, "_shifted", scale=1.0, offset=1.0)(size)
    exponent = parts(layers.Rescaling, "_exponent", scale=-1.0)(ops.log(shifted))
    return parts(layers.Multiply)([x, ops.exp(exponent)])


def silu(parts: Parts, x: Any) -> Any:
    gate = parts(layers.Activation, "_gate", activation="sigmoid")
    return parts(layers.Multiply)([x, gate(x)])


def hard_sigmoid(parts: Parts, x: Any) -> Any:
    """`x / 6 + 1 / 2` in [0, 1]."""
    scaled = parts(layers.Rescaling, "_scaled", scale=1 / 6, offset=0.5)(x)
    return parts(Bounded, low=0.0, high=1.0)(scaled)


def hard_silu(parts: Parts, x: Any) -> Any:
    """`x * hard_sigmoid(x)`: LiteRT's own kernel has 8 fractional bits only."""
    scaled = parts(layers.Rescaling, "_scaled", scale=1 / 6, offset=0.5)(x)
    gate = parts(Bounded, "_gate", low=0.0, high=1.0)(scaled)
    return parts(layers.Multiply)([x, gate])


def hard_tanh(parts: Parts, x: Any) -> Any:
    return parts(Bounded, low=-1.0, high=1.0)(x)


def _negative(parts: Parts, x: Any) -> Any:
    return parts(layers.Rescaling, "_negative", scale=-1.0)(x)


_BY_NAME = {
    "celu": celu,
    "elu": elu,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": hard_silu,
    "hard_swish": hard_silu,
    "hard_tanh": hard_tanh,
    "leaky_relu": leaky,
    "log_sigmoid": log_sigmoid,
    "mish": mish,
    "selu": selu,
    "silu": silu,
    "swish": silu,
    "softplus": softplus,
    "softsign": softsign,
}

# Names of all activation functions that have an integer form.
KNOWN = frozenset({*KERNELS, *_BY_NAME})

for _name, _with_alpha in (("Celu", celu), ("Elu", elu)):
    expansion(_name)(
        lambda operation, parts, x, _of=_with_alpha, **_: _of(
            parts, x, float(getattr(operation, "alpha", 1.0))
        )
    )
for _name, _of in (
    ("HardSigmoid", hard_sigmoid),
    ("HardSilu", hard_silu),
    ("HardTanh", hard_tanh),
    ("LogSigmoid", log_sigmoid),
    ("Mish", mish),
    ("Selu", selu),
    ("Silu", silu),
    ("Softplus", softplus),
    ("Softsign", softsign),
):
    expansion(_name)(lambda operation, parts, x, _of=_of, **_: _of(parts, x))
