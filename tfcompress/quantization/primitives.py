"""Small layers that larger ones are expanded into, where Keras has none."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.layers import fill, no_products
from tfcompress.quantization.integers.sums import add_integers

# A weight of zeros has no scale.
_SMALLEST = 1e-8


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class Bounded(keras.layers.Layer):
    """Clips to `[low, high]`, which integers do for nothing.

    When to use: `quantize_aware` puts it in place of `clip`, a `ReLU` with a largest
    value and the like. The rounding behind it takes a range within these bounds, and
    integers cannot leave their range. Bounds that lie far beyond the data, which are
    there for safety, so cost no precision.

    Args:
        low: smallest value, at most 0, which every range contains.
        high: largest value, at least 0.

    Example:

    >>> Bounded(-1.0, 2.0)(ops.array([-3.0, 0.5, 7.0])).numpy().tolist()
    [-1.0, 0.5, 2.0]
    """

    def __init__(self, low: float, high: float, **kwargs: Any):
        super().__init__(**kwargs)
        if not low <= 0 <= high or low == high:
            raise InvalidArgumentError(
                "The bounds of Bounded do not contain zero.",
                received=f"low={low!r}, high={high!r}",
                expected="low <= 0 <= high",
            )
        self.low, self.high = float(low), float(high)

    def call(self, inputs: Any) -> Any:
        return ops.clip(inputs, self.low, self.high)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def integer_form(self) -> keras.Layer:
        """Returns what is left of it where integers clip by themselves."""
        return keras.layers.Identity(name=self.name)

    def get_config(self) -> dict:
        return {**super().get_config(), "low": self.low, "high": self.high}


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class ScaleOffset(keras.layers.Layer):
    """Multiplies each channel by a weight and adds another.

    When to use: `quantize_aware` makes it of the last part of a normalization layer.
    Like a BatchNormalization it is folded into the operation before it, or becomes a
    1x1 depthwise convolution.

    Source: `y = gamma * x + beta`, over the last axis.

    Args:
        scale: whether to have `gamma`.
        offset: whether to have `beta`.
        single: whether all channels share one `gamma`, and one `beta`.

    Example:

    >>> ScaleOffset()(ops.ones((1, 2))).numpy().tolist()
    [[1.0, 1.0]]
    """

    def __init__(
        self,
        scale: bool = True,
        offset: bool = True,
        single: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.scale, self.offset, self.single = scale, offset, single
        self.gamma = self.beta = None

    def build(self, input_shape: Any) -> None:
        shape = (1,) if self.single else (input_shape[-1],)
        if self.scale:
            self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        if self.offset:
            self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")

    def call(self, inputs: Any) -> Any:
        if self.gamma is not None:
            inputs = inputs * ops.cast(self.gamma, inputs.dtype)
        if self.beta is not None:
            inputs = inputs + ops.cast(self.beta, inputs.dtype)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict:
        own = {"scale": self.scale, "offset": self.offset, "single": self.single}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class AddConstant(keras.layers.Layer):
    """Adds a fixed tensor, such as the positions of tokens, rounded to 8 bits.

    When to use: `quantize_aware` makes it of `x + constant`, where the constant has
    more axes than the channels.

    Args:
        value: the constant, a nested list or an array; it is added to each sample.
        steps: distance between two neighbouring values of the input and the output,
            to add as integer kernels do; `finalize` sets them.

    Example:

    >>> AddConstant([[1.0], [-0.5]])(ops.zeros((1, 2, 1))).shape
    TensorShape([1, 2, 1])
    """

    def __init__(
        self, value: Any, steps: tuple[float, float] | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.value = np.asarray(value, "float32")
        self.steps = steps

    def call(self, inputs: Any) -> Any:
        # Zero and the number that is farthest from it are among the values.
        largest = max(self.value.max() / 127, -self.value.min() / 128) or 1.0
        low, high = np.float32(-128 * largest), np.float32(127 * largest)
        rounded = keras.quantizers.fake_quant_with_min_max_vars(
            ops.convert_to_tensor(self.value), float(low), float(high)
        )
        if self.steps is None:
            return inputs + ops.cast(rounded, inputs.dtype)
        own = (float(high) - float(low)) / 255
        return add_integers(inputs, rounded, (self.steps[0], own), self.steps[1])

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "value": self.value.tolist(),
            "steps": self.steps,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class AddWeight(keras.layers.Layer):
    """Adds a weight with more axes than the channels, such as learned positions.

    When to use: `quantize_aware` makes it of `x + weight` and of class tokens, so that
    they go on training. `finalize` makes an `AddConstant` of it.

    Args:
        shape: the shape of the weight, without an axis for the samples.
        padding: how many zeros stand before and behind it along each axis, in pairs.

    Example:

    >>> AddWeight((1, 2), padding=[(0, 1), (0, 0)])(ops.zeros((3, 2, 2))).shape
    TensorShape([3, 2, 2])
    """

    def __init__(
        self, shape: tuple[int, ...], padding: list | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.shape = tuple(shape)
        self.padding = [tuple(pair) for pair in padding or [(0, 0)] * len(self.shape)]

    def build(self, input_shape: Any) -> None:
        self.value = self.add_weight(shape=self.shape, name="value")

    def call(self, inputs: Any) -> Any:
        value = ops.convert_to_tensor(self.value)
        found = ops.stop_gradient(value)
        # As AddConstant: zero and the number that is farthest from it are values.
        largest = ops.maximum(ops.max(found) / 127, -ops.min(found) / 128)
        largest = ops.maximum(largest, _SMALLEST)
        rounded = keras.quantizers.fake_quant_with_min_max_vars(
            ops.cast(value, "float32"), -128 * largest, 127 * largest
        )
        return inputs + ops.cast(ops.pad(rounded, self.padding), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def integer_form(self) -> keras.Layer:
        """Returns the same sum with a fixed tensor."""
        value = np.pad(ops.convert_to_numpy(self.value), self.padding)
        return AddConstant(value, name=self.name)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "shape": list(self.shape),
            "padding": [list(pair) for pair in self.padding],
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class GuardedLog(keras.layers.Layer):
    """Computes the logarithm of numbers that are not negative.

    When to use: `quantize_aware` makes it of the middle of a normalization layer,
    where `1 / sqrt(x)` is `exp(-log(x) / 2)`.

    Args:
        smallest: in training, numbers up to this one are taken for the smallest of
            the batch that is larger, so that ranges and gradients are those of the
            others; in inference for this one, whatever else the batch holds. Integers
            clip what is too small by themselves.
        guarded: whether to do so.

    Example:

    >>> numbers = ops.array([0.0, 1.0, 2.0])
    >>> GuardedLog(smallest=0.5)(numbers, training=True).numpy().tolist()[0]
    0.0
    >>> round(float(GuardedLog(smallest=0.5)(numbers)[0]), 2)
    -0.69
    """

    def __init__(self, smallest: float = 1e-7, guarded: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.smallest, self.guarded = smallest, guarded

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not self.guarded:
            return ops.log(inputs)
        smallest: Any = self.smallest
        if training:
            # What was rounded to zero is taken for the smallest number that was not:
            # a lower one would widen the range of all.
            known = ops.where(inputs > smallest, inputs, ops.max(inputs))
            smallest = ops.maximum(ops.min(known), smallest)
        return ops.log(ops.maximum(inputs, ops.stop_gradient(smallest)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def integer_form(self) -> keras.Layer:
        """Returns the layer without its guard."""
        return GuardedLog(self.smallest, False, name=self.name)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "smallest": self.smallest,
            "guarded": self.guarded,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class UnitSpectralNorm(keras.constraints.Constraint):
    """Divides a kernel by its largest singular value.

    When to use: `quantize_aware` gives it to the kernel of a layer that was in a
    `SpectralNormalization`.

    Source: Miyato et al., "Spectral Normalization for Generative Adversarial
    Networks", 2018: `w / sigma(w)`, with `sigma` by power iteration.

    Args:
        iterations: steps of the power iteration.

    Example:

    >>> UnitSpectralNorm()(ops.array([[4.0, 0.0], [0.0, 1.0]])).numpy().tolist()
    [[1.0, 0.0], [0.0, 0.25]]
    """

    def __init__(self, iterations: int = 10):
        self.iterations = iterations

    def __call__(self, w: Any) -> Any:
        matrix = ops.reshape(ops.convert_to_tensor(w), (-1, w.shape[-1]))
        # Any start that is orthogonal to no singular vector of an ordinary kernel.
        vector = ops.cos(ops.arange(w.shape[-1], dtype=w.dtype))[:, None]
        for _ in range(self.iterations):
            vector = ops.normalize(ops.matmul(matrix, vector), axis=0)
            vector = ops.normalize(ops.matmul(ops.transpose(matrix), vector), axis=0)
        norm = ops.norm(ops.matmul(matrix, vector))
        return w / ops.where(norm > 0, norm, 1.0)

    def get_config(self) -> dict:
        return {"iterations": self.iterations}


fill((Bounded, GuardedLog), flow="activate", macs=no_products, channels="same")
fill((ScaleOffset,), flow="fold", macs=no_products)
fill((AddConstant, AddWeight), flow="arithmetic", macs=no_products)
