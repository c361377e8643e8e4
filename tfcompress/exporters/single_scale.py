"""One scale for kernels that were rounded with one.

The converter gives every channel of a kernel a scale of its own, `max / 127`. A kernel
that was rounded to one grid for all channels then is rounded a second time, and its
equal weights become different integers. Here it gets the one scale back.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tfcompress.exporters.flatbuffer import read_schema

_KERNELS = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"}
_LARGEST = 127
# How far the largest integers of channels may be off whole numbers: float32's rounding.
_TOLERANCE = 1e-3
# Fields of QuantizationParameters in the schema, as offsets in its table.
_SCALE, _ZERO_POINT, _DATA = 8, 10, 4


def with_single_scales(content: bytes) -> bytes:
    """Returns the file with one scale for each kernel whose channels share a grid.

    Values are changed in place and vectors only become shorter, so nothing moves and
    every buffer stays aligned as the converter laid it out.

    Args:
        content: a .tflite file whose kernels `finalize` has rounded.

    Returns:
        A file that computes with exactly the kernels of the finalized model.
    """
    schema = read_schema()
    model = schema.Model.GetRootAs(content, 0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    data = bytearray(content)
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        readers = _readers(graph)
        for position in range(graph.OperatorsLength()):
            operator = graph.Operators(position)
            code = model.OperatorCodes(operator.OpcodeIndex())
            builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            if names.get(builtin) in _KERNELS and operator.InputsLength() > 1:
                inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
                if all(readers[i] == 1 for i in inputs[1:] if i >= 0):
                    tensors = [graph.Tensors(i) if i >= 0 else None for i in inputs]
                    _join(schema, model, data, tensors)
    return bytes(data)


def _join(schema: Any, model: Any, data: bytearray, tensors: list) -> None:
    source, kernel, *rest = tensors
    scales = _scales(kernel)
    if kernel.Type() != schema.TensorType.INT8 or len(scales) < 2:
        return
    place, size = _vector(model.Buffers(kernel.Buffer()), _DATA)
    if not size:
        return
    axis = kernel.Quantization().QuantizedDimension()
    values = np.frombuffer(data, np.int8, size, place).reshape(kernel.ShapeAsNumpy())
    integers = _on_one_grid(np.moveaxis(values, axis, 0), scales)
    if integers is None:
        return
    scale = scales.max()
    bias = rest[0] if rest else None
    if bias is not None and bias.Type() == schema.TensorType.INT64:
        return  # 16-bit activations have kernels of their own
    if bias is not None and len(_scales(bias)):
        _rescale_bias(model, data, bias, _scales(source)[0] * scale)
    data[place : place + size] = np.moveaxis(integers, 0, axis).tobytes()
    _shorten(data, kernel, scale)


def _on_one_grid(values: np.ndarray, scales: np.ndarray) -> np.ndarray | None:
    """Returns the integers to the largest scale, or None if they are not whole.

    Args:
        values: the stored integers, channels first.
        scales: one per channel.
    """
    flat = values.reshape(len(values), -1).astype("int32")
    largest = np.abs(flat).max(axis=1)
    whole = _LARGEST * scales / scales.max()
    used = largest > 0
    near = np.abs(whole - np.round(whole))[used].max(initial=0) < _TOLERANCE
    if not near or np.any(largest[used] != _LARGEST):
        return None
    whole = np.where(used, np.round(whole), _LARGEST)[:, None]
    integers = np.round(flat * whole / _LARGEST)
    if np.abs(integers * _LARGEST / whole - flat).max() > 0.5 + _TOLERANCE:
        return None
    return integers.astype(np.int8).reshape(values.shape)


def _rescale_bias(model: Any, data: bytearray, bias: Any, scale: np.float64) -> None:
    place, size = _vector(model.Buffers(bias.Buffer()), _DATA)
    added = np.frombuffer(data, np.int32, size // 4, place)
    added = np.round(added * (_scales(bias) / scale)).astype(np.int32)
    data[place : place + size] = added.tobytes()
    _shorten(data, bias, scale)


def _shorten(data: bytearray, tensor: Any, scale: Any) -> None:
    """Leaves one scale and one zero point of a tensor; the rest becomes zeros."""
    for field, value, width in (
        (_SCALE, struct.pack("<f", scale), 4),
        (_ZERO_POINT, struct.pack("<q", 0), 8),
    ):
        place, length = _vector(tensor.Quantization(), field)
        if length:
            data[place : place + length * width] = bytes(length * width)
            data[place - 4 : place] = struct.pack("<I", 1)
            data[place : place + width] = value


def _scales(tensor: Any) -> np.ndarray:
    quantization = tensor.Quantization()
    if quantization is None or not quantization.ScaleLength():
        return np.zeros(0)
    return quantization.ScaleAsNumpy().astype("float64")


def _vector(table: Any, field: int) -> tuple[int, int]:
    """Returns where a vector's entries begin, and how many there are."""
    offset = table._tab.Offset(field)
    if not offset:
        return 0, 0
    return table._tab.Vector(offset), table._tab.VectorLen(offset)


def _readers(graph: Any) -> dict[int, int]:
    counts: dict[int, int] = {}
    for position in range(graph.OperatorsLength()):
        operator = graph.Operators(position)
        for i in range(operator.InputsLength()):
            counts[operator.Inputs(i)] = counts.get(operator.Inputs(i), 0) + 1
    return counts
