"""Layers as convolutions that compute the same, the form integer kernels have.

Scale and offset: a BatchNormalization that follows no convolution would run as a
multiplication and an addition with an unrounded tensor between them. As a 1x1
depthwise convolution it is one integer operation, and exact: with one scale per
channel, the only weight of a channel is always on its grid.

Average pooling: the mean of a few integers often lies exactly half-way between two,
and kernels and TensorFlow round such ties differently. A depthwise convolution with
equal weights can carry a bias of a fraction of a step, which decides all ties alike.
Pixels that are rescaled meet the same ties, and the same answer. Where there are no
ties there is no such bias: values just below the middle would go up with them.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.graph import Node, Tensor
from tfcompress.quantization.fake_quantize import TIE_BREAK
from tfcompress.quantization.primitives import ScaleOffset

# As near to the middle, in steps, as the noise of float32 may take another number.
_TIE = 1e-4


def affine_parameters(layer: keras.Layer, channels: int) -> tuple[Any, Any] | None:
    """Returns `(scale, offset)` per channel of a layer that computes just that.

    Example:

    >>> affine_parameters(layers.Rescaling(2.0, offset=1.0), 2)
    (array([2., 2.], dtype=float32), array([1., 1.], dtype=float32))
    """
    if isinstance(layer, layers.BatchNormalization):
        scale = 1.0 / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
        if layer.gamma is not None:
            scale = scale * _array(layer.gamma)
        offset = -_array(layer.moving_mean) * scale
        if layer.beta is not None:
            offset = offset + _array(layer.beta)
    elif isinstance(layer, layers.Rescaling):
        scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    elif isinstance(layer, ScaleOffset):
        scale = np.ones(1) if layer.gamma is None else _array(layer.gamma)
        offset = np.zeros(1) if layer.beta is None else _array(layer.beta)
    elif isinstance(layer, layers.Normalization) and not layer.invert:
        deviation = np.sqrt(_array(layer.variance))
        scale = 1.0 / np.maximum(deviation, keras.config.epsilon())
        offset = -_array(layer.mean) * scale
    else:
        return None
    if scale.size not in (1, channels) or offset.size not in (1, channels):
        return None
    full = np.ones(channels, "float32")
    return (
        full * scale.reshape(-1).astype("float32"),
        full * offset.reshape(-1).astype("float32"),
    )


def _array(value: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.convert_to_tensor(value))


def depthwise_nodes(node: Node, step: float, source: float | None) -> list[Node] | None:
    """Returns nodes that compute an affine node as a depthwise convolution.

    Returns `None` where that has no such form (unknown sizes, another axis).

    Args:
        node: the affine layer.
        step: distance between two neighbouring values of its output.
        source: that of its input, if it is known.
    """
    tensor, name = node.inputs[0], node.name
    channels, spatial = tensor.shape[-1], tensor.shape[1:-1]
    axis = getattr(node.operation, "axis", -1)
    last = axis in (-1, len(tensor.shape) - 1, (-1,), (len(tensor.shape) - 1,))
    if channels is None or not last or len(tensor.shape) < 2:
        return None
    if len(tensor.shape) != 4 and None in spatial:
        return None
    parameters = affine_parameters(node.operation, channels)
    if parameters is None:
        return None
    scale, offset = parameters
    ties = source is None or _has_ties(scale * (source / step), offset / step)
    offset = offset + np.where(ties, np.float32(TIE_BREAK * step), np.float32(0))
    convolution = layers.DepthwiseConv2D(1, name=name)
    kernel = scale.reshape(1, 1, channels, 1)
    return _on_images(node, convolution, [kernel, offset])


def _has_ties(scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Returns in which channels an 8-bit integer ends half-way between two.

    Args:
        scale: of each channel, in steps of the output.
        offset: the same.
    """
    values = np.arange(-255.0, 256.0)[:, None] * scale + offset
    return (np.abs(values - np.floor(values) - 0.5) < _TIE).any(axis=0)


def identity_nodes(
    node: Node, name: str, activation: str = "linear", in_a_row: bool = False
) -> list[Node] | None:
    """Returns nodes that give on their input, computing something in between.

    Two roundings in a row are one to the converter; a depthwise convolution with ones
    stands between them, and rounds as float32 does.

    Args:
        node: what is replaced.
        name: that of the convolution.
        activation: of the convolution.
        in_a_row: whether the image is one row of all values, a shape that no tensor has
            of itself. Converters put two equal reshapings behind what reads both.
    """
    tensor = node.inputs[0]
    channels = tensor.shape[-1]
    if channels is None or (len(tensor.shape) != 4 and None in tensor.shape[1:]):
        return None
    convolution = layers.DepthwiseConv2D(
        1, use_bias=False, activation=activation, name=name
    )
    if in_a_row and len(tensor.shape) != 4:
        row = (1, math.prod(size or 1 for size in tensor.shape[1:]), 1)
        ones = np.ones((1, 1, 1, 1), "float32")
        return _with_reshapes(node, name, row, convolution, row, [ones])
    return _on_images(node, convolution, [np.ones((1, 1, channels, 1), "float32")])


def _on_images(node: Node, convolution: Any, weights: list) -> list[Node]:
    """Returns nodes that apply a 1x1 convolution to a tensor of any rank."""
    tensor, name = node.inputs[0], convolution.name
    if len(tensor.shape) == 4:
        return [Node(convolution, (tensor,), {}, node.output, lambda: weights)]
    spatial = [size or 1 for size in tensor.shape[1:-1]]
    image = (math.prod(spatial[:-1]), *(spatial[-1:] or [1]), tensor.shape[-1])
    return _with_reshapes(node, name, image, convolution, image, weights)


def _with_reshapes(
    node: Node, name: str, image: tuple, convolution: Any, after: tuple, weights: list
) -> list[Node]:
    """Returns nodes that reshape to `image`, convolve it to `after`, and reshape."""
    tensor = node.inputs[0]
    first = Tensor((tensor.shape[0], *image), "float32")
    second = Tensor((tensor.shape[0], *after), "float32")
    before = layers.Reshape(image, name=f"{name}_image")
    flat = layers.Reshape(node.output.shape[1:], name=f"{name}_flat")
    return [
        Node(before, (tensor,), {}, first),
        Node(convolution, (first,), {}, second, lambda: weights),
        Node(flat, (second,), {}, node.output),
    ]


def average_nodes(node: Node, step: float) -> list[Node] | None:
    """Returns nodes that compute an average pooling as a depthwise convolution.

    Returns `None` where windows reach over the border, where they average fewer values,
    and where strides are unequal: TensorFlow has no such depthwise convolution.

    Args:
        node: the pooling.
        step: distance between two neighbouring values of its input.
    """
    layer, tensor = node.operation, node.inputs[0]
    channels = tensor.shape[-1]
    kinds = layers.AveragePooling1D | layers.AveragePooling2D
    plain = isinstance(layer, kinds) and layer.padding == "valid"
    if not plain or layer.data_format != "channels_last" or channels is None:
        return None
    size = math.prod(layer.pool_size)
    # Means differ by 1/size of a step: less than that decides ties only.
    decision = np.float32(min(0.25 / size, TIE_BREAK) * step)
    window, strides = (*layer.pool_size, 1)[:2], (*layer.strides, 1)[:2]
    weights = [
        np.full((*window, channels, 1), 1.0 / size, "float32"),
        np.full(channels, decision),
    ]
    if len(tensor.shape) == 4:
        if strides[0] != strides[1]:
            return None
        convolution = layers.DepthwiseConv2D(window, strides, name=layer.name)
        return [Node(convolution, node.args, {}, node.output, lambda: weights)]
    if tensor.shape[1] is None or strides[0] not in (1, window[0]):
        return None
    # Rows of one pixel; LiteRT's depthwise convolutions have square strides, and a
    # stride over an axis of length 1 changes nothing.
    convolution = layers.DepthwiseConv2D(window, strides[0], name=layer.name)
    image = (tensor.shape[1], 1, channels)
    after = (node.output.shape[1], 1, channels)
    return _with_reshapes(node, layer.name, image, convolution, after, weights)
