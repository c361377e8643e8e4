"""Merging layers that are two operations, and means over masks, which are none."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfcompress.quantization.expansions.base import Parts, StaysFloat, expansion


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


@expansion("applications.CustomScaleLayer")
def scaled_sum(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """InceptionResNetV2's `x + scale * y`."""
    left, right = inputs
    scaled = parts(layers.Rescaling, "_scaled", scale=layer.scale)(right)
    return parts(layers.Add)([left, scaled])


@expansion(layers.Dot)
def dot(layer: Any, parts: Parts, inputs: Any, **_: Any) -> Any:
    """The product of two vectors per sample is a product of matrices."""
    left, right = inputs
    flat = len(left.shape) == 2 and len(right.shape) == 2
    if layer.normalize or not flat:
        raise StaysFloat(
            "it normalizes, or is no product of two vectors per sample",
            "use Dot(axes=1) of two tensors of shape (batch, n), without normalize",
        )
    rows = ops.reshape(left, (-1, 1, left.shape[-1]))
    columns = ops.reshape(right, (-1, right.shape[-1], 1))
    return ops.reshape(ops.matmul(rows, columns), (-1, 1))


@expansion(layers.GlobalAveragePooling1D)
def mean_over_mask(layer: Any, parts: Parts, x: Any, mask: Any = None, **_: Any) -> Any:
    if mask is not None:
        raise StaysFloat(
            "it averages over a mask, so it divides by a number of each sample",
            "use GlobalMaxPooling1D or the last output of a recurrent layer, or pad "
            "with a word of its own and mask_zero=False",
        )
