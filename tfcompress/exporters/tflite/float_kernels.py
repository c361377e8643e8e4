"""Kernels in float for layers in float.

The converter rounds the kernel of a transposed convolution to 8 bits wherever a model
has integers, though the layer is to compute in float. Here it gets its numbers back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.rewriting import integers, operators, store

# What a rounding moves at most, in steps, and what the file's own scales do.
_ROUNDING = 0.5 + 1e-3
_EXACT = 1e-3


def use_float_kernels(model: Any, weights: Iterable[np.ndarray]) -> None:
    """Gives kernels back that are rounded in the file, and not in the model.

    Args:
        model: a .tflite file taken apart.
        weights: those of the model that was converted.
    """
    types = read_schema().TensorType
    rounded = [
        tensors[1]
        for name, _, tensors in operators(model)
        if name == "TRANSPOSE_CONV"
        and tensors[2].type == types.FLOAT32
        and tensors[1].type == types.INT8
    ]
    if not rounded:
        return
    # As the file has them: output channels, height, width, input channels.
    kernels = [
        np.moveaxis(np.reshape(w, (-1, *w.shape[-3:])), 2, 0)
        for w in weights
        if w.ndim in (3, 4)
    ]
    for tensor in rounded:
        _restore(model, tensor, kernels)


def _restore(model: Any, tensor: Any, kernels: list[np.ndarray]) -> None:
    scale = np.asarray(tensor.quantization.scale, "float64")
    steps = integers(model, tensor, np.int8).reshape(tensor.shape)
    unit = scale.reshape(-1, 1, 1, 1)
    for kernel in kernels:
        if kernel.shape != steps.shape:
            continue
        off = np.abs(kernel / unit - steps).max(initial=0)
        if off > _ROUNDING:
            continue
        if off < _EXACT:
            return  # its numbers are integers times a scale, as they are to be
        store(model, tensor, np.ascontiguousarray(kernel, "float32"))
        tensor.type = read_schema().TensorType.FLOAT32
        tensor.quantization = None
        return
