"""4-bit weights in .tflite files.

The converter knows int8 only: a kernel of 15 values gets the scale `max / 127`, on
which those values do not lie. Here such kernels get the scale they were made for, and
half a byte per weight where the runtime computes with that as well.
"""

from typing import Any

import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.rewriting import (
    WITH_KERNEL,
    integers,
    operators,
    rescale_bias,
    scaled,
    store,
)
from tfcompress.quantization.integers.storage import BYTE_ERROR, INT8, largest_integers

# Half bytes in these operators are as exact and as fast as bytes. XNNPACK leaves 4-bit
# convolutions to kernels that are slower and round a few sums differently.
EXACT = frozenset({"FULLY_CONNECTED"})
ALL = EXACT | {"CONV_2D", "DEPTHWISE_CONV_2D"}
# By the option of `TFLiteExporter`.
PACKED = {"exact": EXACT, "all": ALL, "none": frozenset[str]()}


def use_4_bit_weights(model: Any, packed: frozenset[str] = EXACT) -> None:
    """Stores kernels of at most 15 values per channel as such.

    Args:
        model: a .tflite file taken apart, whose kernels `finalize` has rounded.
        packed: operators whose kernels are stored in half bytes; those of others
            stay bytes, which a zip archive makes as small.
    """
    for name, _, tensors in operators(model):
        if name in WITH_KERNEL and len(tensors) > 1 and tensors[1] is not None:
            _narrow(model, name in packed, *tensors[WITH_KERNEL[name]])


def _narrow(model: Any, pack: bool, kernel: Any, bias: Any = None) -> None:
    """Gives a kernel of 15 values, and its bias, the scale of 4 bits."""
    types = read_schema().TensorType
    values = integers(model, kernel, np.int8).astype(int)
    if kernel.type != types.INT8 or not values.size or kernel.quantization is None:
        return
    axis = kernel.quantization.quantizedDimension
    values = values.reshape(kernel.shape)
    others = tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    tops = largest_integers(values, (axis,), BYTE_ERROR)
    factor = (INT8 / tops).reshape(-1)
    whole = np.isin(largest, (0, INT8)).all()
    per_channel = len(kernel.quantization.scale) == len(factor)
    if not whole or not per_channel or (tops == INT8).all():
        return
    narrow = np.round(values * (tops / INT8)).astype(np.int8)
    kernel.quantization.scale = scaled(kernel.quantization.scale, factor)
    if pack:
        kernel.type = types.INT4
    store(model, kernel, half_bytes(narrow) if pack else narrow)
    if bias is not None:
        rescale_bias(model, bias, factor)


def half_bytes(values: np.ndarray) -> np.ndarray:
    """Returns integers of 4 bits, two in a byte, the first in its low half."""
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8))
    low, high = flat[0::2] & 15, flat[1::2] & 15
    return (low | (high << 4)).astype(np.uint8)
