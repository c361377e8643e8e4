"""4-bit weights in .tflite files.

The converter knows int8 only: a kernel of 15 values gets the scale `max / 127`, on
which those values do not lie. Here such kernels get the scale they were made for, and
half a byte per weight where the runtime computes with that as well.
"""

from typing import Any

import numpy as np

from tfcompress.exporters.flatbuffer import read_schema
from tfcompress.exporters.rewriting import (
    as_bytes,
    integers,
    operators,
    put_together,
    take_apart,
)
from tfcompress.quantization.storage import BYTE_ERROR, INT8, largest_integers

# Half bytes in these operators are as exact and as fast as bytes. XNNPACK leaves 4-bit
# convolutions to kernels that are slower and round a few sums differently.
EXACT = frozenset({"FULLY_CONNECTED"})
ALL = EXACT | {"CONV_2D", "DEPTHWISE_CONV_2D"}


def with_4_bit_weights(content: bytes, packed: frozenset[str] = EXACT) -> bytes:
    """Returns the file with kernels of at most 15 values per channel stored as such.

    Args:
        content: a .tflite file whose kernels `finalize` has rounded.
        packed: operators whose kernels are stored in half bytes; those of others
            stay bytes, which a zip archive makes as small.

    Returns:
        A file that computes with exactly the values of the finalized model, or
        `content` itself if no kernel is on such a grid.
    """
    model = take_apart(content)
    done: dict[int, bool] = {}
    for name, _, tensors in operators(model):
        if name not in ALL or len(tensors) < 2 or tensors[1] is None:
            continue
        kernel, bias = tensors[1], (tensors[2:] or [None])[0]
        if kernel.buffer not in done:
            done[kernel.buffer] = _narrow(model, kernel, bias, name in packed)
    return put_together(model) if any(done.values()) else content


def _narrow(model: Any, kernel: Any, bias: Any, pack: bool) -> bool:
    """Gives a kernel of 15 values, and its bias, the scale of 4 bits; says if it is."""
    types = read_schema().TensorType
    values = integers(model, kernel, np.int8).astype(int)
    if kernel.type != types.INT8 or not values.size or kernel.quantization is None:
        return False
    axis = kernel.quantization.quantizedDimension
    values = values.reshape(kernel.shape)
    others = tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    tops = largest_integers(values, (axis,), BYTE_ERROR)
    factor = (INT8 / tops).reshape(-1)
    whole = np.isin(largest, (0, INT8)).all()
    per_channel = len(kernel.quantization.scale) == len(factor)
    if not whole or not per_channel or (tops == INT8).all():
        return False
    narrow = np.round(values * (tops / INT8)).astype(np.int8)
    kernel.quantization.scale = _scaled(kernel.quantization.scale, factor)
    if pack:
        kernel.type = types.INT4
    stored = _half_bytes(narrow) if pack else as_bytes(narrow)
    model.buffers[kernel.buffer].data = stored
    if bias is not None:
        added = integers(model, bias, np.int32) / factor
        bias.quantization.scale = _scaled(bias.quantization.scale, factor)
        model.buffers[bias.buffer].data = as_bytes(np.round(added).astype(np.int32))
    return True


def _scaled(scale: Any, factor: np.ndarray) -> list[float]:
    return [float(s) for s in np.asarray(scale, np.float32) * factor]


def _half_bytes(values: np.ndarray) -> np.ndarray:
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8))
    low, high = flat[0::2] & 15, flat[1::2] & 15
    return (low | (high << 4)).astype(np.uint8)
