"""Average pooling of integers, as integer kernels round it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.registry import PACKAGE
from tfcompress.layers import fill, no_products
from tfcompress.quantization.integers.sums import is_plain


@keras.saving.register_keras_serializable(package=PACKAGE)
class IntegerAverage(keras.layers.Wrapper):
    """Rounds the averages of a pooling to the step of its input.

    When to use: `finalize` puts it around average pooling whose windows reach over the
    border; others are convolutions. Converters see the plain layer.

    Source: TensorFlow Lite's integer average pooling: with the sum `n` of the `count`
    stored integers in a window, zero points included, `q = n / count`, rounded half
    away from zero.

    Args:
        layer: an `AveragePooling1D` or `AveragePooling2D`, channels last.
        step: distance between two neighbouring values of its input.
        zero_point: the integer that stands for zero.

    Example:

    >>> pool = keras.layers.AveragePooling1D(2, padding="same")
    >>> layer = IntegerAverage(pool, step=0.5, zero_point=0)
    >>> layer(ops.array([[[0.5], [1.0], [1.0]]])).numpy().ravel().tolist()   # 3 / 2
    [1.0, 1.0]
    """

    def __init__(self, layer: keras.Layer, step: float, zero_point: int, **kwargs: Any):
        kwargs.setdefault("name", layer.name)
        kwargs["dtype"] = "float32"
        super().__init__(layer, **kwargs)
        self.step, self.zero_point = float(step), int(zero_point)

    def call(self, inputs: Any) -> Any:
        averages = self.layer(inputs)
        if is_plain("averages"):
            return averages
        count = self._counts(inputs)
        exact = ops.cast(averages, "float64") / self.step * count
        stored = ops.round(exact) + self.zero_point * count
        half = ops.sign(stored) * ops.floor(count / 2)
        # Towards zero, as integers are divided.
        quotient = (stored + half) / count
        rounded = ops.sign(quotient) * ops.floor(ops.abs(quotient))
        return ops.cast(rounded - self.zero_point, "float32") * np.float32(self.step)

    def _counts(self, inputs: Any) -> Any:
        """Returns how many numbers of the input each window covers."""
        pool = self.layer
        ones = ops.ones_like(inputs[:1, ..., :1])
        kernel = ops.ones((*pool.pool_size, 1, 1), ones.dtype)
        found = ops.conv(ones, kernel, strides=pool.strides, padding=pool.padding)
        return ops.cast(found, "float64")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict:
        config = {"step": self.step, "zero_point": self.zero_point}
        return {**super().get_config(), **config}


fill((IntegerAverage,), flow="average", macs=no_products, channels="same")
