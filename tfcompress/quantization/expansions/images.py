"""Preprocessing of images that is another layer under another name."""

from __future__ import annotations

from typing import Any

from keras import layers

from tfcompress.quantization.expansions.base import Parts, expansion


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
