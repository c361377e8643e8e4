"""Layers as convolutions that compute the same, the form integer kernels have.

Scale and offset: a BatchNormalization that follows no convolution would run as a
multiplication and an addition with an unrounded tensor between them. As a 1x1
depthwise convolution it is one integer operation, and exact: with one scale per
channel, the only weight of a channel is always on its grid.

Average pooling: the mean of a few integers often lies exactly half-way between two,
and kernels and TensorFlow round such ties differently. A depthwise convolution with
equal weights can carry a bias of a fraction of a step, which decides all ties alike.
Pixels that are rescaled meet the same ties, and the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.graph import Node, Tensor

# In steps of the output: far above the noise of float32, far below what matters.
_TIE_BREAK = 0.02


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


def depthwise_nodes(node: Node, step: float) -> list[Node] | None:
    """Returns nodes that compute an affine node as a depthwise convolution.

    Returns `None` where that has no such form (unknown sizes, another axis).

    Args:
        node: the affine layer.
        step: distance between two neighbouring values of its output.
    """
    tensor, name = node.inputs[0], node.name
    channels, spatial = tensor.shape[-1], tensor.shape[1:-1]
    axis = getattr(node.operation, "axis", -1)
    last = axis in (-1, len(tensor.shape) - 1, (-1,), (len(tensor.shape) - 1,))
    if channels is None or not last or len(tensor.shape) not in (2, 3, 4):
        return None
    if len(tensor.shape) != 4 and None in spatial:
        return None
    parameters = affine_parameters(node.operation, channels)
    if parameters is None:
        return None
    scale, offset = parameters
    offset = offset + np.float32(_TIE_BREAK * step)
    convolution = layers.DepthwiseConv2D(1, name=name)

    def weights() -> list:
        return [scale.reshape(1, 1, channels, 1), offset]

    if len(tensor.shape) == 4:
        return [Node(convolution, (tensor,), {}, node.output, weights)]
    image = (*spatial, *([1] * (2 - len(spatial))), channels)
    steps: list[tuple[Any, tuple, Callable[[], list] | None]] = [
        (layers.Reshape(image, name=f"{name}_image"), image, None),
        (convolution, image, weights),
        (layers.Reshape(tensor.shape[1:], name=f"{name}_flat"), (), None),
    ]
    nodes, current = [], tensor
    for index, (operation, shape, source) in enumerate(steps):
        final = index == len(steps) - 1
        after = node.output if final else Tensor((tensor.shape[0], *shape), "float32")
        nodes.append(Node(operation, (current,), {}, after, source))
        current = after
    return nodes


def average_nodes(node: Node, step: float) -> list[Node] | None:
    """Returns nodes that compute a 2D average pooling as a depthwise convolution.

    Returns `None` where windows reach over the border: they average fewer values.

    Args:
        node: the pooling.
        step: distance between two neighbouring values of its input.
    """
    layer, channels = node.operation, node.inputs[0].shape[-1]
    plain = isinstance(layer, layers.AveragePooling2D) and layer.padding == "valid"
    if not plain or layer.data_format != "channels_last" or channels is None:
        return None
    size = math.prod(layer.pool_size)
    convolution = layers.DepthwiseConv2D(
        layer.pool_size, layer.strides, name=layer.name
    )

    def weights() -> list:
        kernel = np.full((*layer.pool_size, channels, 1), 1.0 / size, "float32")
        # Means differ by 1/size of a step: less than that decides ties only.
        decision = np.float32(min(0.25 / size, _TIE_BREAK) * step)
        return [kernel, np.full(channels, decision)]

    return [Node(convolution, node.args, {}, node.output, weights)]
