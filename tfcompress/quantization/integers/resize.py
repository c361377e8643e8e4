"""Bilinear resizing of integers, as integer kernels round it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.registry import PACKAGE
from tfcompress.layers import fill, wrapped
from tfcompress.quantization.integers.sums import is_plain

# Bits of the weights of a neighbour.
_BITS = 11


@keras.saving.register_keras_serializable(package=PACKAGE)
class IntegerResize(keras.layers.Wrapper):
    """Rounds what a bilinear resizing mixes to the step of its input.

    When to use: `finalize` puts it around bilinear `UpSampling2D` and `Resizing`.
    Converters see the plain layer.

    Source: XNNPACK's qs8-ibilinear: with the place of an output among the inputs,
    `(i + 0.5) * n_in / n_out - 0.5`, between two neighbours, weights are whole 2048ths
    of the distance; the four products are added up as integers and rounded once, half
    up.

    Args:
        layer: an `UpSampling2D` or a `Resizing`, bilinear, channels last.
        step: distance between two neighbouring values of its input.

    Example:

    >>> upsampling = keras.layers.UpSampling2D(2, interpolation="bilinear")
    >>> layer = IntegerResize(upsampling, 1.0)
    >>> layer(ops.array([[[[0.0], [4.0]]]])).numpy()[0, 0, :, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """

    def __init__(self, layer: keras.Layer, step: float, **kwargs: Any):
        kwargs.setdefault("name", layer.name)
        kwargs["dtype"] = "float32"
        super().__init__(layer, **kwargs)
        self.step = float(step)

    def call(self, inputs: Any) -> Any:
        if is_plain("averages"):
            return self.layer(inputs)
        _, height, width, _ = self.layer.compute_output_shape(inputs.shape)
        integers = ops.round(ops.cast(inputs, "float64") / self.step)
        rows = _mixed(integers, 1, height)
        sums = _mixed(rows, 2, width)
        rounded = ops.floor(sums / 4.0**_BITS + 0.5)
        return ops.cast(rounded, "float32") * np.float32(self.step)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "step": self.step}


def _mixed(integers: Any, axis: int, size: int) -> Any:
    """Returns 2048 times what lies at `size` places along an axis."""
    scale = np.float32(integers.shape[axis]) / np.float32(size)
    last = integers.shape[axis] - 1
    half = np.float32(0.5)
    places = np.arange(size, dtype="float32") * scale + (half * scale - half)
    places = np.clip(places, np.float32(0), np.float32(last))
    low = places.astype("int32")
    high = np.minimum(low + 1, last)
    weights = np.rint(np.float32(2**_BITS) * (places - low.astype("float32")))
    shape = [1] * len(integers.shape)
    shape[axis] = size
    weights = weights.astype("float64").reshape(shape)
    first, second = (ops.take(integers, at, axis=axis) for at in (low, high))
    return first * 2.0**_BITS + (second - first) * weights


fill((IntegerResize,), flow="average", holds=wrapped, channels="same")
