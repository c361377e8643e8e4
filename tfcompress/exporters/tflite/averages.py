"""Averages over large windows, as the pooling that they are.

A model's average pooling is a depthwise convolution with equal weights, whose bias
decides ties: the mean of an even number of integers may lie half-way between two, and
pooling rounds it away from zero. Of an odd number it never does, and the two agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.rewriting import calls, integers, new_operator

# XNNPACK convolves up to so many pixels of a window at once, and faster than others
# pool them; larger ones it goes through several times.
_AT_ONCE = 25
# How far weights may be off one part of the window, and how far a bias may push, in
# parts of what two averages differ by.
_ROUNDING, _PUSH = 1e-5, 0.3


def use_average_pools(model: Any) -> None:
    """Puts AVERAGE_POOL_2D where it computes the same integers, and faster.

    Args:
        model: a .tflite file taken apart.
    """
    schema = read_schema()
    for graph in model.subgraphs:
        operators = []
        for name, operator, tensors in calls(model, graph):
            if name == "DEPTHWISE_CONV_2D" and _averages(
                model, operator, tensors, graph.tensors[int(operator.outputs[0])]
            ):
                options, given = schema.Pool2DOptionsT(), operator.builtinOptions
                options.padding = given.padding
                options.strideH, options.strideW = given.strideH, given.strideW
                _, options.filterHeight, options.filterWidth, _ = tensors[1].shape
                ends = [int(operator.inputs[0])], [int(operator.outputs[0])]
                operator = new_operator(model, "AVERAGE_POOL_2D", 2, *ends, options)
            operators.append(operator)
        graph.operators = operators


def _averages(model: Any, operator: Any, tensors: list, made: Any) -> bool:
    """Returns whether a depthwise convolution is the pooling of a large window."""
    schema, options = read_schema(), operator.builtinOptions
    source, kernel, bias = tensors
    _, height, width, _ = kernel.shape
    values = integers(model, kernel, np.int8)
    plain = (
        height * width > _AT_ONCE
        and height * width % 2
        and source.type == made.type == kernel.type == schema.TensorType.INT8
        and options.padding == schema.Padding.VALID
        and options.fusedActivationFunction == schema.ActivationFunctionType.NONE
        and (options.depthMultiplier, options.dilationHFactor) == (1, 1)
        and options.dilationWFactor == 1
        and _grid(source) == _grid(made)
    )
    if not plain or not values.size or np.ptp(values):
        return False
    weight = float(values[0]) * np.asarray(kernel.quantization.scale, "float64")
    if np.abs(weight * height * width - 1).max() > _ROUNDING:
        return False
    if bias is None:
        return True
    step = np.asarray(bias.quantization.scale, "float64") / made.quantization.scale[0]
    pushed = np.abs(integers(model, bias, np.int32) * step).max(initial=0)
    return bool(pushed * height * width < _PUSH)


def _grid(tensor: Any) -> tuple:
    quantization = tensor.quantization
    return tuple(quantization.scale), tuple(quantization.zeroPoint)
