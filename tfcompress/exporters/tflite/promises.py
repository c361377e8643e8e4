"""What was to run in integers, against what the file computes in float.

The converter leaves an operator in float, without a word, where a pattern that it knows
is broken: by a neighbour that shares a tensor, by arithmetic that it folds otherwise.
"""

from __future__ import annotations

import re

import keras

from tfcompress.core.errors import warn
from tfcompress.core.select import walk
from tfcompress.exporters.tflite.flatbuffer import NOT_COMPUTE, Operator, TFLiteFile
from tfcompress.quantization.integers.average import IntegerAverage
from tfcompress.quantization.integers.linear import IntegerLinear
from tfcompress.quantization.integers.sums import IntegerAdd
from tfcompress.quantization.wrapper import QuantizedLayer

_PROMISED = (IntegerLinear, IntegerAverage, IntegerAdd, QuantizedLayer)


def layers_of(operator: Operator, names: set[str]) -> list[str]:
    """Returns the layers that an operator was made from, by the names of its tensors.

    Args:
        operator: an operator of a .tflite file, whose tensors are called after the
            operations of TensorFlow, "model/conv_1/Conv2D;model/relu/Relu".
        names: the layers that there are.

    Example:

    >>> from tfcompress.exporters.tensors import TensorInfo
    >>> from tfcompress.exporters.tflite.flatbuffer import Tensor
    >>> tensor = Tensor(TensorInfo("net/conv_1/Conv2D", (1,), "float32"), 0, None, ())
    >>> layers_of(Operator("CONV_2D", False, (), (tensor,)), {"conv", "relu"})
    ['conv']
    """
    found: dict[str, None] = {}
    for tensor in operator.outputs:
        for part in re.split("[/;]", tensor.info.name):
            # Names that are used twice in a graph get a number.
            for name in (part, re.sub(r"_\d+$", "", part)):
                if name in names:
                    found[name] = None
                    break
    return list(found)


def float_layers(file: TFLiteFile, model: keras.Model) -> list[str]:
    """Returns the layers that were to run in integers, and are in float in the file."""
    promised = {one.name for _, one in walk(model) if isinstance(one, _PROMISED)}
    floats = [
        op
        for op in file.operators
        if any(t.info.dtype == "float32" for t in op.outputs)
    ]
    names: dict[str, None] = {}
    for op in floats:
        if op.name not in NOT_COMPUTE:
            names |= dict.fromkeys(layers_of(op, promised))
    return list(names)


def check_promises(file: TFLiteFile, model: keras.Model) -> None:
    """Warns of layers that were to run in integers, and are in float in the file."""
    names = float_layers(file, model)
    if names:
        warn(
            "The converter left these layers in float, "
            f"{1 - file.integer_coverage():.0%} of the work: {', '.join(names)}. They "
            "were quantized, and have integer kernels. Look at what else reads their "
            "inputs, or tell us of it."
        )
