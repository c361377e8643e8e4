"""What a compiler of an NPU left in a .tflite file, in words of the user's layers."""

from __future__ import annotations

import re
from typing import Any

import keras

from tfcompress.core.errors import ExportError
from tfcompress.core.select import walk
from tfcompress.exporters.operations import layer_of, named_paths
from tfcompress.exporters.tflite.flatbuffer import Operator, TFLiteFile
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.float_border import FloatBorder


def left_in(compiled: TFLiteFile, file: TFLiteFile, own: str) -> list[Operator]:
    """Returns the operators of a file that the compiled one still has.

    Args:
        compiled: what the compiler made.
        file: what it was made of.
        own: the operator that the NPU's work has become.
    """
    remaining = {
        (op.name, tensor.info.name)
        for op in compiled.operators
        if op.name != own
        for tensor in op.outputs
    }
    return [
        op
        for op in file.operators
        if any((op.name, tensor.info.name) in remaining for tensor in op.outputs)
    ]


def layer_of_operator(operator: Operator, names: dict[str, str]) -> str:
    """Returns the layer that an operator is a part of; "" where none is known."""
    for tensor in (*operator.outputs, *operator.inputs):
        if found := layers_in(tensor.info.name, names):
            return found[0]
    return ""


def own_layers(model: keras.Model) -> dict[str, str]:
    """Returns the user's layers by name; that of a border or rounding is beside it."""
    names = named_paths(model)
    for _, layer in walk(model):
        own = layer.name.rpartition("_")[0]
        if isinstance(layer, FloatBorder | FakeQuantize) and own in names:
            names[layer.name] = names[own]
    return names


def layers_in(tensor: str, names: dict[str, str]) -> list[str]:
    """Returns the layers that a tensor's name tells: "conv/Conv2D;relu/Relu".

    >>> layers_in("relu/Relu;net/conv/Conv2D_softmax_3;#12", {"conv": "conv"})
    ['conv']
    """
    places = (layer_of(part, names) for part in re.split(";", tensor))
    return list(dict.fromkeys(place for place in places if place))


def check_borders(
    compiled: TFLiteFile, file: TFLiteFile, compiler: str, package: str
) -> None:
    """Raises unless the compiled file takes and gives what the file did."""
    wanted, got = (
        [_border(tensor.info) for tensor in (*one.inputs, *one.outputs)]
        for one in (file, compiled)
    )
    if wanted != got:
        raise ExportError(
            f"{compiler} has changed what the model takes or gives.",
            received=str(got),
            expected=str(wanted),
            fix=f"try another version of {package}, or tell us of it",
        )


def _border(info: Any) -> tuple[Any, ...]:
    return tuple(info.shape), info.dtype, info.scale, info.zero_point
