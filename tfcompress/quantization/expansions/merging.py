"""Merging layers that are two operations, and means over masks, which are none."""

from __future__ import annotations

import math
from typing import Any

from keras import layers, ops

from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.expansions.base import expansion, nothing
from tfcompress.quantization.expansions.normalization import (
    SMALLEST_SQUARE,
    normalized,
)


@expansion(layers.Average)
def average(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """The mean of n tensors is their sum, divided by n."""
    total = parts(layers.Add, "_sum")(inputs)
    return parts(layers.Rescaling, scale=1.0 / len(inputs))(total)


@expansion(layers.Add, layers.Multiply)
def pairs(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """Integer kernels take two tensors; of more, one at a time."""
    if len(inputs) == 2:
        return None
    kind, last = type(layer), len(inputs) - 1
    total = inputs[0]
    for index, tensor in enumerate(inputs[1:], 1):
        total = parts(kind, "" if index == last else f"_{index}")([total, tensor])
    return total


@expansion(layers.Subtract)
def difference(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """Of a tensor and itself there is none."""
    return nothing(parts, inputs[0]) if inputs[0] is inputs[1] else None


@expansion("applications.CustomScaleLayer")
def scaled_sum(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """InceptionResNetV2's `x + scale * y`."""
    left, right = inputs
    scaled = parts(layers.Rescaling, "_scaled", scale=layer.scale)(right)
    return parts(layers.Add)([left, scaled])


@expansion(layers.Dot)
def dot(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """A product of matrices for each sample, over one axis of either tensor."""
    left, right = inputs
    axes = layer.axes if isinstance(layer.axes, list | tuple) else [layer.axes] * 2
    axes = [axis % len(tensor.shape) for axis, tensor in zip(axes, inputs)]
    if any(None in tensor.shape[1:] for tensor in inputs):
        raise StaysFloat("the shapes of its inputs are free", "give them fixed shapes")
    # Rows of the one, and of the other, that are multiplied with each other.
    left, right = (
        t if axis == len(t.shape) - 1 else ops.moveaxis(t, axis, -1)
        for t, axis in zip(inputs, axes)
    )
    if layer.normalize:
        left, right = (
            normalized(parts, t, SMALLEST_SQUARE, False) for t in (left, right)
        )
    outside = (*left.shape[1:-1], *right.shape[1:-1])
    left, right = (ops.reshape(t, (-1, *_rows_of(t))) for t in (left, right))
    product = ops.matmul(left, ops.transpose(right, (0, 2, 1)))
    return ops.reshape(product, (-1, *(outside or (1,))))


def _rows_of(tensor: Any) -> tuple[int, int]:
    """Returns how many vectors of the last axis a sample holds, and their length."""
    return math.prod(tensor.shape[1:-1]), tensor.shape[-1]


@expansion(layers.GlobalAveragePooling1D)
def mean_over_mask(layer: Any, parts: Parts, x: Any, mask: Any = None, **_: Any) -> Any:
    if mask is not None:
        raise StaysFloat(
            "it averages over a mask, so it divides by a number of each sample",
            "use GlobalMaxPooling1D or the last output of a recurrent layer, or pad "
            "with a word of its own and mask_zero=False",
        )
