"""16-bit activations in .tflite files."""

from typing import Any

import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.rewriting import (
    WITH_KERNEL,
    integers,
    operators,
    store,
)


def use_64_bit_biases(model: Any) -> None:
    """Gives kernels of 16-bit activations biases as they read them.

    From fake quantization of 16 bits the converter writes biases of 32 bits, which
    those kernels take for 64: the file loads and computes wrong numbers. Its own
    calibration to 16 bits writes 64.
    """
    types = read_schema().TensorType
    for name, _, tensors in operators(model):
        if name not in WITH_KERNEL or tensors[-1] is None:
            continue
        if not _is_wide(tensors, types):
            continue
        bias = tensors[-1]
        store(model, bias, integers(model, bias, np.int32).astype(np.int64))
        bias.type = types.INT64


def _is_wide(tensors: list, types: Any) -> bool:
    """Returns whether an operator has 16-bit activations and a bias of 32 bits."""
    wide = types.INT16 in [tensor.type for tensor in tensors if tensor is not None]
    return wide and tensors[-1].type == types.INT32 and len(tensors[-1].shape) == 1
