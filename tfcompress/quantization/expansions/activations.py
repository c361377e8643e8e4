"""Activations that integer kernels compute only in several steps.

Each step is an operation whose 8-bit kernel is exact: a lookup in a table (exp, log,
sigmoid, tanh, gelu), the larger of two numbers, a product, or a scale and offset.
"""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfcompress.quantization.activations import INTEGER, activation_name
from tfcompress.quantization.expansions.base import Parts, StaysFloat, expansion
from tfcompress.quantization.primitives import Bounded


@expansion(layers.Activation)
def activation(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """Expands an activation function by its name."""
    name = str(activation_name(layer))
    if name in INTEGER:
        return None
    if name not in _BY_NAME:
        raise StaysFloat(
            f"LiteRT has no integer kernel for its activation '{name}'",
            f"use one of {', '.join(sorted(KNOWN))}",
        )
    return _BY_NAME[name](parts, x)


@expansion(layers.ReLU)
def relu(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """Sets bounds, or a slope for negative numbers."""
    if activation_name(layer) in ("relu", "relu6"):
        return None
    if layer.threshold or (layer.negative_slope and layer.max_value is not None):
        raise StaysFloat(
            "it has a threshold, or a slope and a largest value",
            "use ReLU(max_value) or LeakyReLU",
        )
    if layer.max_value is not None:
        return parts(Bounded, low=0.0, high=layer.max_value)(x)
    return leaky(parts, x, layer.negative_slope)


@expansion(layers.LeakyReLU, "LeakyRelu")
def leaky_relu(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    return leaky(parts, x, float(layer.negative_slope))


@expansion(layers.ELU)
def elu_layer(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    return elu(parts, x, float(layer.alpha))


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


def celu(parts: Parts, x: Any) -> Any:
    return elu(parts, x)


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
KNOWN = INTEGER | set(_BY_NAME)

for _name, _of in (
    ("Celu", celu),
    ("Elu", elu),
    ("HardSigmoid", hard_sigmoid),
    ("HardSilu", hard_silu),
    ("HardSwish", hard_silu),
    ("HardTanh", hard_tanh),
    ("LogSigmoid", log_sigmoid),
    ("Mish", mish),
    ("Selu", selu),
    ("Silu", silu),
    ("Softplus", softplus),
    ("SoftSign", softsign),
    ("Softsign", softsign),
):
    expansion(_name)(lambda operation, parts, x, _of=_of, **_: _of(parts, x))
