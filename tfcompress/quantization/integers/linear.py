"""Linear layers that add up whole numbers, as integer kernels do."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.layers import fill, kernels_of, wrapped
from tfcompress.quantization.dilated import convolve, is_dilated
from tfcompress.quantization.integers.sums import is_plain, rescaled

# By so many bits LiteRT multiplies the sums of 16-bit activations.
_MULTIPLIER_BITS = 15


def short_multipliers(multipliers: np.ndarray) -> np.ndarray:
    """Returns the nearest multipliers that kernels of 16-bit activations can keep.

    Source: LiteRT's `MultiplyByQuantizedMultiplier` of 64-bit sums keeps 15 bits of
    `s_input * s_kernel / s_output`, which moves large values by a step. Of a multiplier
    that has no more bits nothing is lost.

    Args:
        multipliers: positive numbers, in float64.

    Example:

    >>> float(short_multipliers(np.array(0.3)) * 2**16)    # of 0.3 * 2**16 = 19660.8
    19661.0
    """
    mantissa, exponent = np.frexp(multipliers)
    one = 2**_MULTIPLIER_BITS
    # At the very ends, the float32 of a scale may have another exponent.
    short = np.clip(np.round(mantissa * one), one // 2 + 1, one - 1) / one
    return np.ldexp(short, exponent)


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class IntegerLinear(keras.layers.Wrapper):
    """Runs a linear layer on the integers that stand for its input and its weights.

    When to use: `finalize` puts it around every linear layer that runs in integers.
    The layer is called as it is, with its numbers divided by their steps; in float32,
    sums of whole numbers are exact up to 2 ** 24, whatever their order, where sums of
    fractions are off by more than one unit once there are thousands of them.
    Converters see the plain layer.

    Source: Jacob et al., 2018, equation 7, without zero points: with inputs `s_x * n_x`
    and weights `s_w * n_w`, `y = s_x * s_w * sum(n_x * n_w)`; rounded to the step of
    the output as in `rescaled`.

    Args:
        layer: a layer with a kernel and at most a bias, linear or with a ReLU.
        kernel_step: distance between two neighbouring weights of each output channel,
            0 for a channel without weights.
        wide: whether inputs and outputs are integers of 16 bits.
        rectified: whether a ReLU follows that the layer does not apply.

    Example:

    >>> layer = IntegerLinear(keras.layers.Dense(1, kernel_initializer="ones"), [1.0])
    >>> layer(ops.array([[0.5, 0.75]]), steps=(0.25, 0.5)).numpy().tolist()    # 1.25
    [[1.0]]
    """

    def __init__(
        self,
        layer: keras.Layer,
        kernel_step: Any,
        wide: bool = False,
        rectified: bool = False,
        **kwargs: Any,
    ):
        kwargs.setdefault("name", layer.name)
        kwargs["dtype"] = "float32"
        super().__init__(layer, **kwargs)
        self.kernel_step = kernel_step
        self.wide, self.rectified = wide, rectified

    @property
    def kernel(self) -> Any:
        """The kernel of the layer."""
        return self.layer.kernel

    @property
    def bias(self) -> Any:
        """The bias of the layer, if it has one."""
        return getattr(self.layer, "bias", None)

    def call(self, inputs: Any, steps: tuple[float, float]) -> Any:
        """Computes the layer.

        Args:
            inputs: rounded numbers.
            steps: distance between two neighbouring values of the input and the output.
        """
        if is_plain():
            dilated = is_dilated(self.layer)
            outputs = convolve(self.layer, inputs) if dilated else self.layer(inputs)
            return ops.relu(outputs) if self.rectified else outputs
        source, target = (np.float32(step) for step in steps)
        own = np.asarray(self.kernel_step, "float64")
        known = own > 0
        own = np.where(known, own, 1.0)
        integers = ops.round(inputs / source)
        kernel, bias = self._integers(own, known, steps[0])
        if self.wide:
            sums = self._sums_of_16_bits(integers, kernel, bias)
            factor = short_multipliers(own * steps[0] / steps[1])
            outputs = ops.cast(ops.floor(sums * factor + 0.5), "float32") * target
            sums = ops.cast(sums, "float32")
        else:
            sums = self._sums(integers, kernel, bias)
            outputs = rescaled(sums, source * own.astype("float32") / target, target)
        if not known.all():
            outputs = ops.where(known, outputs, sums * source)
        return ops.relu(outputs) if self.rectified else outputs

    def _sums(self, integers: Any, kernel: tuple, bias: tuple | None) -> Any:
        weights = [kernel]
        if bias is not None:
            weights.append((bias[0], ops.cast(bias[1], "float32")))
        with keras.StatelessScope(state_mapping=weights):
            return self.layer(integers)

    def _sums_of_16_bits(self, integers: Any, kernel: tuple, bias: tuple | None) -> Any:
        """Returns sums in float64, of upper and lower bytes, which float32 holds."""
        upper = ops.floor(integers / 256)
        none = None if bias is None else (bias[0], ops.zeros_like(bias[1]))
        upper, lower = (
            ops.cast(self._sums(part, kernel, none), "float64")
            for part in (upper, integers - 256 * upper)
        )
        sums = 256 * upper + lower
        return sums if bias is None else sums + bias[1]

    def _integers(self, own: Any, known: Any, source: float) -> tuple:
        """Returns each weight with the integers that stand for it."""
        ((kernel, weights),) = kernels_of(self.layer)
        summed = kernel.reduction_axes(len(weights.shape))
        shape = [1 if a in summed else n for a, n in enumerate(weights.shape)]
        step = own.reshape(shape).astype("float32")
        rounded = ops.round(ops.convert_to_tensor(weights) / step)
        if self.bias is None:
            return (weights, rounded), None
        bias = ops.convert_to_tensor(self.bias)
        added = ops.cast(bias, "float64") / (own * source)
        return (weights, rounded), (
            self.bias,
            ops.where(known, ops.round(added), added),
        )

    def compute_output_shape(self, input_shape: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "kernel_step": self.kernel_step,
            "wide": self.wide,
            "rectified": self.rectified,
        }


fill((IntegerLinear,), holds=wrapped)
