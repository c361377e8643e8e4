"""Dilated convolutions as one operation, the form that converters keep in integers.

Keras' dilated convolutions are three operations of TensorFlow: SpaceToBatchND, an
ordinary convolution, BatchToSpaceND. The TFLite converter puts them together again, but
not where two convolutions read one tensor: they share the first of the three, and both
end up in float. TensorFlow's operations for convolutions take dilations themselves.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_KINDS = (layers.Conv1D, layers.Conv2D, *_DEPTHWISE)


def is_dilated(layer: keras.Layer) -> bool:
    """Returns whether a layer is a dilated convolution that `convolve` can compute.

    Example:

    >>> is_dilated(layers.Conv1D(4, 3, dilation_rate=2)), is_dilated(layers.Dense(4))
    (True, False)
    """
    # What a subclass computes in a `call` of its own is not known.
    known = any(isinstance(layer, k) and type(layer).call is k.call for k in _KINDS)
    return (
        known
        and layer.data_format == "channels_last"
        and any(rate > 1 for rate in layer.dilation_rate)
    )


def convolve(layer: Any, inputs: Any) -> Any:
    """Computes a dilated convolution with its bias and activation.

    Args:
        layer: a layer that `is_dilated`.
        inputs: what the layer is called with.
    """
    import tensorflow as tf

    kernel, padding = ops.convert_to_tensor(layer.kernel), layer.padding
    rates, strides = tuple(layer.dilation_rate), tuple(layer.strides)
    if padding == "causal":
        missing = rates[0] * (layer.kernel_size[0] - 1)
        inputs, padding = ops.pad(inputs, [(0, 0), (missing, 0), (0, 0)]), "valid"
    flat = len(rates) == 1
    if flat:
        # A sequence is an image of one row.
        inputs, kernel = ops.expand_dims(inputs, 1), ops.expand_dims(kernel, 0)
        rates, strides = (1, *rates), (1, *strides)
    arguments: dict[str, Any] = {
        "input": inputs,
        "filter": kernel,
        "padding": padding.upper(),
        "dilations": [1, *rates, 1],
    }
    if isinstance(layer, _DEPTHWISE):
        # The kernel has one stride for both axes; that of an axis of one row is any.
        strides = (max(strides), max(strides)) if flat else strides
        convolution = tf.raw_ops.DepthwiseConv2dNative
    else:
        convolution = tf.raw_ops.Conv2D
    outputs = convolution(**arguments, strides=[1, *strides, 1])
    outputs = ops.squeeze(outputs, 1) if flat else outputs
    if layer.use_bias:
        outputs = outputs + ops.convert_to_tensor(layer.bias)
    return layer.activation(outputs)
