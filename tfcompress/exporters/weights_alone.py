"""What exports of weight-only models have in common, whatever their format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.core.select import walk
from tfcompress.exporters.comparing import Bound
from tfcompress.quantization.calibration.rounding import as_matrix
from tfcompress.quantization.weight_only import is_weight_only
from tfcompress.quantization.wrapper import QuantizedLayer


def bound_of(model: keras.Model, compute: str) -> Bound:
    """Returns how far an artifact without quantized activations may be off its model.

    In float it is equal. Of weight-only models runtimes round what each layer is given
    to 255 values as they run, up to four times its root mean square: that is noise of
    half a hundredth. The noises of `n` layers are independent, and add up to `sqrt(n)`
    times as much.

    Args:
        model: the model.
        compute: "integer", or "float" for artifacts whose layers all compute so.
    """
    if compute == "float" or not is_weight_only(model):
        return Bound()
    count = len({id(variable) for _, variable in rounded_kernels(model)})
    return Bound(min(0.005 * math.sqrt(count), 0.05), average=True)


def matrices_of(model: keras.Model) -> list[np.ndarray]:
    """Returns the kernels of a weight-only model, each as (channels, inputs)."""
    found: dict[int, np.ndarray] = {}
    for _, layer in walk(model):
        for kernel, variable in layer.kernels() if _is_rounded(layer) else ():
            axes = kernel.reduction_axes(len(variable.shape))
            matrix, _ = as_matrix(keras.ops.convert_to_numpy(variable), axes)
            found[id(variable)] = matrix.T
    return list(found.values())


def _is_rounded(layer: Any) -> bool:
    return isinstance(layer, QuantizedLayer) and layer.frozen


def rounded_kernels(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yields the kernels of a weight-only model, with the paths of their layers."""
    for path, layer in walk(model):
        if isinstance(layer, QuantizedLayer):
            for _, variable in layer.kernels():
                yield path, variable
