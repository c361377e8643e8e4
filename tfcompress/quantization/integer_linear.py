"""Linear layers that add up whole numbers, as integer kernels do."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.layer_rules import holds, kernels_of
from tfcompress.quantization.dilated import convolve, is_dilated
from tfcompress.quantization.integer_sums import is_plain, rescaled


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

    Example:

    >>> layer = IntegerLinear(keras.layers.Dense(1, kernel_initializer="ones"), [1.0])
    >>> layer(ops.array([[0.5, 0.75]]), steps=(0.25, 0.5)).numpy().tolist()    # 1.25
    [[1.0]]
    """

    def __init__(self, layer: keras.Layer, kernel_step: Any, **kwargs: Any):
        kwargs.setdefault("name", layer.name)
        kwargs["dtype"] = "float32"
        super().__init__(layer, **kwargs)
        self.kernel_step = kernel_step

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
            return convolve(self.layer, inputs) if dilated else self.layer(inputs)
        source, target = (np.float32(step) for step in steps)
        own = np.asarray(self.kernel_step, "float64")
        known = own > 0
        own = np.where(known, own, 1.0)
        with keras.StatelessScope(state_mapping=self._integers(own, known, steps[0])):
            sums = self.layer(ops.round(inputs / source))
        outputs = rescaled(sums, source * own.astype("float32") / target, target)
        return outputs if known.all() else ops.where(known, outputs, sums * source)

    def _integers(self, own: Any, known: Any, source: float) -> list:
        """Returns each weight with the integers that stand for it."""
        ((kernel, weights),) = kernels_of(self.layer)
        summed = kernel.reduction_axes(len(weights.shape))
        shape = [1 if a in summed else n for a, n in enumerate(weights.shape)]
        step = own.reshape(shape).astype("float32")
        mapping = [(weights, ops.round(ops.convert_to_tensor(weights) / step))]
        if self.bias is not None:
            bias = ops.convert_to_tensor(self.bias)
            added = ops.cast(bias, "float64") / (own * source)
            added = ops.where(known, ops.round(added), added)
            mapping.append((self.bias, ops.cast(added, "float32")))
        return mapping

    def compute_output_shape(self, input_shape: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "kernel_step": self.kernel_step}


holds(IntegerLinear)
