"""Layer, RMS and group normalization in integer operations.

The sum of squares is the product of a row with itself, which integer kernels
accumulate in 32 bits and round once. Its inverse square root is `exp(-log(x) / 2)`: two
lookups in tables that are exact, which LiteRT's own kernel for it is not.
"""

from __future__ import annotations

import math
from typing import Any

from keras import layers, ops

from tfcompress.core.copies import clone_operation
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.expansions.base import expansion, nothing
from tfcompress.quantization.primitives import GuardedLog, ScaleOffset, UnitSpectralNorm

# Of a row that is made as long as 1: a thousandth squared.
SMALLEST_SQUARE = 1e-6


@expansion(layers.LayerNormalization)
def layer_normalization(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """Source: Ba et al., 2016: `gamma * (x - mean) / sqrt(variance + eps) + beta`."""
    _check_axis(layer, x)
    if getattr(layer, "rms_scaling", False):
        raise StaysFloat("it has rms_scaling", "use RMSNormalization")
    rows = normalized(parts, _centered(parts, x), layer.epsilon)
    return _scaled(parts, rows, layer.gamma, layer.beta)


@expansion(layers.RMSNormalization)
def rms_normalization(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """Source: Zhang and Sennrich, 2019: `gamma * x / sqrt(mean(x ** 2) + eps)`."""
    _check_axis(layer, x)
    return _scaled(parts, normalized(parts, x, layer.epsilon), layer.scale, None)


@expansion(layers.UnitNormalization)
def unit_normalization(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """`x / sqrt(sum(x ** 2))`, for rows that are not smaller than a thousandth."""
    _check_axis(layer, x)
    return normalized(parts, x, SMALLEST_SQUARE, mean=False)


@expansion(layers.GroupNormalization)
def group_normalization(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """Source: Wu and He, 2018: each group of channels over all positions."""
    channels, spatial = x.shape[-1], x.shape[1:-1]
    _check_axis(layer, x)
    if None in x.shape[1:]:
        raise StaysFloat(
            f"the shape of its input, {x.shape}, is not fixed",
            "give the Input a fixed shape",
        )
    groups = channels if layer.groups == -1 else layer.groups
    positions, inner = math.prod(spatial), channels // groups
    rows = ops.reshape(x, (-1, positions, groups, inner))
    rows = ops.transpose(rows, (0, 2, 1, 3))
    rows = ops.reshape(rows, (-1, groups, positions * inner))
    rows = normalized(parts, _centered(parts, rows), layer.epsilon)
    rows = ops.reshape(rows, (-1, groups, positions, inner))
    rows = ops.reshape(ops.transpose(rows, (0, 2, 1, 3)), (-1, *x.shape[1:]))
    return _scaled(parts, rows, layer.gamma, layer.beta)


def _check_axis(layer: Any, x: Any) -> None:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    rank = len(x.shape)
    if [a % rank for a in axes] != [rank - 1] or x.shape[-1] is None:
        raise StaysFloat(
            f"it normalizes over the axes {tuple(axes)}", "use axis=-1, the last one"
        )


def _centered(parts: Parts, x: Any) -> Any:
    if x.shape[-1] == 1:
        return nothing(parts, x, "_centered")
    return parts(layers.Subtract, "_centered")([x, ops.mean(x, -1, keepdims=True)])


def normalized(parts: Parts, x: Any, epsilon: float, mean: bool = True) -> Any:
    """Returns `x / sqrt(mean(x ** 2) + epsilon)`, or with the sum for the mean."""
    size, rows = x.shape[-1], x
    deep = len(x.shape) > 4 and None not in x.shape[1:]
    if deep:  # LiteRT multiplies matrices of at most five axes
        rows = ops.reshape(x, (-1, math.prod(x.shape[1:-1]), size))
    rank = len(rows.shape)
    squares = ops.matmul(ops.expand_dims(rows, rank - 1), ops.expand_dims(rows, rank))
    squares = ops.squeeze(squares, rank)
    if deep:
        squares = ops.reshape(squares, (-1, *x.shape[1:-1], 1))
    scale = 1.0 / size if mean else 1.0
    variance = parts(layers.Rescaling, "_variance", scale=scale, offset=epsilon)(
        squares
    )
    logarithm = parts(GuardedLog, "_log", smallest=epsilon)(variance)
    exponent = parts(layers.Rescaling, "_exponent", scale=-0.5)(logarithm)
    return parts(layers.Multiply, "_normalized")([x, ops.exp(exponent)])


def _scaled(parts: Parts, x: Any, gamma: Any, beta: Any) -> Any:
    found = [v for v in (gamma, beta) if v is not None]
    weights = [ops.convert_to_numpy(v) for v in found]
    scaled = parts(
        ScaleOffset, weights=weights, scale=gamma is not None, offset=beta is not None
    )
    return scaled(x) if found else x


@expansion("applications.LayerScale")
def layer_scale(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """ConvNeXt's scale per channel."""
    return _scaled(parts, x, layer.gamma, None)


@expansion("applications.StochasticDepth")
def stochastic_depth(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """ConvNeXt's dropout of whole samples."""
    shape = (None, *[1] * (len(x.shape) - 1))
    return parts(layers.Dropout, rate=layer.drop_path_rate, noise_shape=shape)(x)


@expansion(layers.SpectralNormalization)
def spectral_normalization(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """The layer inside: its kernel is normalized where it is stored.

    Source: Miyato et al., 2018. What Keras does before each step of training, a
    constraint does after it.
    """
    inner = layer.layer
    names = ("kernel_constraint", "depthwise_constraint", "embeddings_constraint")
    free = [name for name in names if getattr(inner, name, "not there") is None]
    constrained = clone_operation(inner, **{name: UnitSpectralNorm() for name in free})
    return parts.add(constrained, inner.get_weights())(x)
