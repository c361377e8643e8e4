"""Strides that are never taken, left out.

A window as large as its input has one place to be. A pooling over a whole picture says
how far its next step would be, though, and Ethos-U55 takes no steps above 3.
"""

from __future__ import annotations

from typing import Any

from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.rewriting import calls, shape_of

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def leave_out_strides(model: Any) -> None:
    """Makes strides 1 along axes on which a convolution has one output.

    Args:
        model: a .tflite file taken apart.
    """
    valid = read_schema().Padding.VALID
    for graph in model.subgraphs:
        for name, operator, tensors in calls(model, graph):
            if name not in _CONVOLUTIONS or operator.builtinOptions.padding != valid:
                continue
            options = operator.builtinOptions
            (_, height, width, _), (_, rows, columns, _) = map(shape_of, tensors[:2])
            if height == (rows - 1) * options.dilationHFactor + 1:
                options.strideH = 1
            if width == (columns - 1) * options.dilationWFactor + 1:
                options.strideW = 1
