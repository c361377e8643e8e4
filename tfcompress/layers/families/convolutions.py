"""Convolutions."""

from __future__ import annotations

import math
from typing import Any

from keras import layers

from tfcompress.layers.kernels import Kernel
from tfcompress.layers.rules import fill
from tfcompress.layers.sizes import Shape, adapter, size, spatial


def convolution(layer: Any, inputs: list[Shape], output: Shape) -> int:
    positions = math.prod(spatial(layer, output))
    return size(layer.kernel) * positions + adapter(layer)


def transposed(layer: Any, inputs: list[Shape], output: Shape) -> int:
    return size(layer.kernel) * math.prod(spatial(layer, inputs[0]))


def separable(layer: Any, inputs: list[Shape], output: Shape) -> int:
    weights = size(layer.depthwise_kernel) + size(layer.pointwise_kernel)
    return weights * math.prod(spatial(layer, output))


_kernel = (Kernel("kernel"),)
_depthwise = (Kernel("kernel", (-2, -1), ()),)
_separable = (Kernel("depthwise_kernel", (-2, -1), ()), Kernel("pointwise_kernel"))
_transposed = (Kernel("kernel", (-2,), (-1,)),)

fill(
    (layers.Conv1D, layers.Conv2D),
    flow="compute",
    kernels=_kernel,
    macs=convolution,
    family="convolution",
)
fill(
    (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    flow="compute",
    kernels=_depthwise,
    macs=convolution,
    family="depthwise",
)
fill(
    (layers.SeparableConv1D, layers.SeparableConv2D),
    flow="compute",
    kernels=_separable,
    macs=separable,
    family="depthwise",
)
fill(
    (layers.Conv1DTranspose, layers.Conv2DTranspose),
    flow="compute",
    kernels=_transposed,
    macs=transposed,
    family="convolution",
)
fill(
    (layers.Conv3D,),
    flow="float",
    kernels=_kernel,
    macs=convolution,
    family="convolution",
)
fill(
    (layers.Conv3DTranspose,),
    flow="float",
    kernels=_transposed,
    macs=transposed,
    family="convolution",
)
