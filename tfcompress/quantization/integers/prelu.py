"""PReLU of integers, as integer kernels round it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.registry import PACKAGE
from tfcompress.layers import fill, no_products
from tfcompress.quantization.integers.storage import INT8
from tfcompress.quantization.integers.sums import in_fixed_point, is_plain


def slopes_as_stored(slopes: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the slopes of a PReLU as 8 bits with one scale hold them, and the scale.

    Example:

    >>> slopes_as_stored(np.array([1.27, 0.003, 0.006]))[0].tolist()
    [1.27, 0.0, 0.01]
    """
    step = float(np.abs(slopes).max(initial=0.0)) / INT8 or 1.0
    return (np.round(slopes / step) * step).astype(slopes.dtype), step


@keras.saving.register_keras_serializable(package=PACKAGE)
class IntegerPReLU(keras.layers.Wrapper):
    """Multiplies negative integers by integer slopes, and rounds as kernels do.

    When to use: `finalize` puts it around a PReLU between two rounded tensors, and
    rounds its slopes. Converters see the plain layer.

    Source: TensorFlow Lite's integer PReLU, with `in_fixed_point`: `q = n * s_in /
    s_out` where the integer `n` is not negative, `q = n * a * s_in * s_a / s_out`
    elsewhere, and slopes `a * s_a` of 8 bits with one scale.

    Args:
        layer: a `PReLU`.
        steps: distance between two neighbouring values of its input, its slopes and
            its output.

    Example:

    >>> slope = keras.initializers.Constant(0.5)
    >>> layer = IntegerPReLU(keras.layers.PReLU(slope), steps=(0.5, 0.5, 0.5))
    >>> layer(ops.array([[-2.0, 1.0]])).numpy().tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self, layer: keras.Layer, steps: tuple[float, float, float], **kwargs: Any
    ):
        kwargs.setdefault("name", layer.name)
        kwargs["dtype"] = "float32"
        super().__init__(layer, **kwargs)
        self.steps = tuple(map(float, steps))

    def call(self, inputs: Any) -> Any:
        if is_plain():
            return self.layer(inputs)
        given, own, made = self.steps
        integers = ops.round(ops.cast(inputs, "float64") / given)
        slopes = ops.round(ops.cast(self.layer.alpha, "float64") / own)
        rounded = ops.where(
            integers < 0,
            in_fixed_point(integers * slopes, given * own / made),
            in_fixed_point(integers, given / made),
        )
        return ops.cast(rounded, "float32") * np.float32(made)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "steps": self.steps}


fill((IntegerPReLU,), flow="activate", macs=no_products, channels="same")
