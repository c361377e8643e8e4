"""Preprocessing of images that is another layer under another name."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.expansions.base import expansion


@expansion(layers.CenterCrop)
def center_crop(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """A cropping by fixed numbers of pixels, where the size of the image is fixed."""
    if layer.data_format != "channels_last" or None in x.shape[1:3]:
        return None
    rows, columns = x.shape[1] - layer.height, x.shape[2] - layer.width
    if rows < 0 or columns < 0:
        return None  # it enlarges the image
    top, left = rows // 2, columns // 2
    edges = ((top, rows - top), (left, columns - left))
    return parts(layers.Cropping2D, cropping=edges)(x)


@expansion(layers.Pipeline)
def pipeline(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    for inner in layer.layers:
        copy = type(inner).from_config(inner.get_config())
        x = parts.add(copy, inner.get_weights())(x)
    return x


@expansion("ExtractPatches")
def patches(operation: Any, parts: Parts, images: Any) -> Any:
    """Patches that lie side by side are the same numbers with other axes."""
    size, shape = tuple(operation.size), images.shape
    strides, dilation = operation.strides, operation.dilation_rate
    strides = (strides,) * 2 if isinstance(strides, int) else tuple(strides)
    beside = strides == size and dilation in (1, (1, 1), [1, 1])
    last = operation.data_format == "channels_last"
    if len(size) != 2 or len(shape) != 4 or not beside or not last:
        raise StaysFloat(
            "its patches overlap, or have gaps",
            "use a convolution, or patches that lie side by side",
        )
    (height, width), (rows, columns, channels) = size, shape[1:]
    whole = rows is not None and columns is not None
    if not whole or rows % height or columns % width:
        raise StaysFloat(
            f"patches of {height}x{width} do not fill images of {rows}x{columns}",
            "crop or resize the images first",
        )
    grid = rows // height, columns // width
    x = ops.reshape(images, (-1, grid[0], height, grid[1], width * channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4))
    return ops.reshape(x, (-1, *grid, height * width * channels))
