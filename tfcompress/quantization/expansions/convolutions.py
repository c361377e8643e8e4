"""Linear layers: the activation they apply, and separable convolutions."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from tfcompress.core.copies import clone_operation
from tfcompress.layers.integer_form import Parts
from tfcompress.quantization.activations import FUSED, activation_name
from tfcompress.quantization.expansions.base import expansion
from tfcompress.quantization.integers.kernels import integer_kernel


@expansion(
    layers.Dense,
    layers.Conv1D,
    layers.Conv2D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
)
def split_activation(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """Takes the activation out of a linear layer, unless integers fuse the two."""
    name = activation_name(layer)
    instance = isinstance(layer.activation, keras.Layer)
    fused = name in FUSED and integer_kernel(layer).clips is not False
    if name == "linear" or (fused and not instance):
        return None
    # Not those of an activation that has some.
    weights = [v for v in (layer.kernel, layer.bias) if v is not None]
    weights = [ops.convert_to_numpy(variable) for variable in weights]
    linear = clone_operation(layer, activation="linear")
    outputs = parts.add(linear, weights)(inputs)
    return activated(parts, layer.activation, outputs)


def activated(parts: Parts, activation: Any, x: Any) -> Any:
    """Applies the activation of a layer as a layer of its own.

    Args:
        parts: the parts of that layer.
        activation: a function, or a layer, which may have weights.
        x: what it is applied to.
    """
    if isinstance(activation, keras.Layer):
        copy = clone_operation(activation, name=f"{parts.name}_{activation.name}")
        return parts.add(copy, activation.get_weights() or None)(x)
    name = getattr(activation, "__name__", "activation").strip("<>")
    return parts(layers.Activation, f"_{name}", activation=activation)(x)


@expansion(layers.SeparableConv1D, layers.SeparableConv2D)
def split_separable(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """A separable convolution is a depthwise one and a 1x1 one."""
    depthwise_type, pointwise_type = (
        (layers.DepthwiseConv1D, layers.Conv1D)
        if isinstance(layer, layers.SeparableConv1D)
        else (layers.DepthwiseConv2D, layers.Conv2D)
    )
    weights = layer.get_weights()
    outputs = parts(
        depthwise_type,
        "_depthwise",
        weights=weights[:1],
        kernel_size=layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        depthwise_regularizer=layer.depthwise_regularizer,
        depthwise_constraint=layer.depthwise_constraint,
    )(inputs)
    return parts(
        pointwise_type,
        weights=weights[1:],
        filters=layer.filters,
        kernel_size=1,
        data_format=layer.data_format,
        activation=layer.activation,
        use_bias=layer.use_bias,
        kernel_regularizer=layer.pointwise_regularizer,
        kernel_constraint=layer.pointwise_constraint,
        bias_regularizer=layer.bias_regularizer,
        bias_constraint=layer.bias_constraint,
    )(outputs)
