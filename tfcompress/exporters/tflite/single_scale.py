"""One scale for kernels that were rounded with one.

The converter gives every channel of a kernel a scale of its own, `max / 127`. A kernel
that was rounded to one grid for all channels then is rounded a second time, and its
equal weights become different integers. Here it gets the one scale back.
"""

from __future__ import annotations

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
from tfcompress.quantization.integers.storage import INT8

# How far the largest integers of channels may be off whole numbers: float32's rounding.
_TOLERANCE = 1e-3


def use_single_scales(model: Any) -> None:
    """Gives one scale to each kernel whose channels share a grid.

    Args:
        model: a .tflite file taken apart, whose kernels `finalize` has rounded.
    """
    for name, _, tensors in operators(model):
        if name in WITH_KERNEL and len(tensors) > 1 and tensors[1] is not None:
            _join(model, *tensors[WITH_KERNEL[name]])


def _join(model: Any, kernel: Any, bias: Any = None) -> None:
    types = read_schema().TensorType
    values = integers(model, kernel, np.int8)
    scales = _scales(kernel)
    if kernel.type != types.INT8 or len(scales) < 2 or not values.size:
        return
    if bias is not None and bias.type != types.INT32:
        return  # 16-bit activations have kernels of their own
    axis = kernel.quantization.quantizedDimension
    found = _on_one_grid(np.moveaxis(values.reshape(kernel.shape), axis, 0), scales)
    if found is None:
        return
    store(model, kernel, np.moveaxis(found, 0, axis))
    _set_scale(kernel, scales.max())
    if bias is not None and len(_scales(bias)):
        rescale_bias(model, bias, scales.max() / scales)
        _set_scale(bias, bias.quantization.scale[int(scales.argmax())])


def _on_one_grid(values: np.ndarray, scales: np.ndarray) -> np.ndarray | None:
    """Returns the integers to the largest scale, or None if they are not whole.

    Args:
        values: the stored integers, channels first.
        scales: one per channel.
    """
    flat = values.reshape(len(values), -1).astype("int32")
    largest = np.abs(flat).max(axis=1)
    whole = INT8 * scales / scales.max()
    used = largest > 0
    near = np.abs(whole - np.round(whole))[used].max(initial=0) < _TOLERANCE
    if not near or np.any(largest[used] != INT8):
        return None
    whole = np.where(used, np.round(whole), INT8)[:, None]
    found = np.round(flat * whole / INT8)
    if np.abs(found * INT8 / whole - flat).max() > 0.5 + _TOLERANCE:
        return None
    return found.astype(np.int8).reshape(values.shape)


def _set_scale(tensor: Any, scale: Any) -> None:
    tensor.quantization.scale = scaled([scale], np.ones(1))
    tensor.quantization.zeroPoint = [0]


def _scales(tensor: Any) -> np.ndarray:
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return np.zeros(0)
    return np.asarray(quantization.scale, "float64")
