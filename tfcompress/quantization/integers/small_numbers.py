"""Numbers that are too small for the scales of integer kernels are told by name.

LiteRT's converter knows no scale below `1e-6 / 255` for activations and `5e-7 / 127`
for kernels, however small all numbers are: what is smaller is rounded to few values.
"""

from __future__ import annotations

import keras
import numpy as np

from tfcompress.core.errors import warn
from tfcompress.core.select import walk
from tfcompress.layers import kernels_of
from tfcompress.quantization.fake_quantize import FakeQuantize, rounded_layer
from tfcompress.quantization.integers.grids import SMALLEST_SPAN
from tfcompress.quantization.integers.storage import INT8, SMALLEST_LARGEST_WEIGHT
from tfcompress.quantization.wrapper import QuantizedLayer

# Values on either side of zero: fewer are a loss that a network feels.
_FEWEST = 32


def warn_of_small_numbers(model: keras.Model) -> None:
    """Warns of layers of a quantized model that are left a few values."""
    said: dict[str, None] = {}
    for _, layer in walk(model):
        if isinstance(layer, FakeQuantize) and layer.fixed_range is None:
            span = _span(layer)
            values = 2**layer.num_bits * span / SMALLEST_SPAN
            if span > 0 and values < 2 * _FEWEST:
                said[f"{rounded_layer(layer.name)} (a range of {span:.2g})"] = None
        elif isinstance(layer, QuantizedLayer):
            largest = _largest_weight(layer)
            if 0 < largest < SMALLEST_LARGEST_WEIGHT * _FEWEST / INT8:
                said[f"{layer.layer.name} (weights up to {largest:.2g})"] = None
    if said:
        warn(
            "Integer kernels have no scale for numbers so small, which are rounded to "
            f"few values: {', '.join(said)}. Scale the inputs, or the targets, so that "
            "numbers are about 1, or leave these layers in float by `filters`."
        )


def _span(layer: FakeQuantize) -> float:
    ranges = np.asarray(keras.ops.convert_to_numpy(layer.ranges))
    return float(max(0.0, ranges[:, 1].max()) - min(0.0, ranges[:, 0].min()))


def _largest_weight(layer: QuantizedLayer) -> float:
    kernels = [keras.ops.convert_to_numpy(v) for _, v in kernels_of(layer.layer)]
    return max(
        (float(np.abs(kernel).max(initial=0.0)) for kernel in kernels), default=0
    )
