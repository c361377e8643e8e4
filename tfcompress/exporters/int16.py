"""16-bit activations in .tflite files."""

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

_WITH_BIAS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}


def with_64_bit_biases(content: bytes) -> bytes:
    """Returns the file with biases as kernels of 16-bit activations read them.

    From fake quantization of 16 bits the converter writes biases of 32 bits, which
    those kernels take for 64: the file loads and computes wrong numbers. Its own
    calibration to 16 bits writes 64.
    """
    model = take_apart(content)
    biases = [
        tensors[-1]
        for name, _, tensors in operators(model)
        if name in _WITH_BIAS and _is_wide(tensors)
    ]
    for bias in {id(one): one for one in biases}.values():
        _widen(model, bias)
    return put_together(model) if biases else content


def _is_wide(tensors: list) -> bool:
    """Returns whether an operator has 16-bit activations and a bias of 32 bits."""
    types = read_schema().TensorType
    present = [tensor for tensor in tensors if tensor is not None]
    bias = present[-1]
    return (
        types.INT16 in [tensor.type for tensor in present]
        and bias.type == types.INT32
        and len(bias.shape) == 1
        and bias is tensors[-1]
    )


def _widen(model: Any, bias: Any) -> None:
    # Tensors may share a buffer, of which another may still be meant as 32 bits.
    buffer = read_schema().BufferT()
    buffer.data = as_bytes(integers(model, bias, np.int32).astype(np.int64))
    model.buffers.append(buffer)
    bias.buffer = len(model.buffers) - 1
    bias.type = read_schema().TensorType.INT64
