"""Reshapings that a .tflite file can do without.

A layer is computed as an image, or as a matrix of one column, where integer kernels
want it so; behind it everything is reshaped back, and before the next layer again.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

from tfcompress.exporters.tflite.assembling import content_of
from tfcompress.exporters.tflite.rewriting import calls, shape_of

# Each value that they make follows from one that they read, wherever it stands.
_NAMES = """
    ABS ELU EXP GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC NEG QUANTIZE RELU RELU6 RSQRT
    SQRT SQUARE TANH
"""
_VALUE_BY_VALUE = frozenset(_NAMES.split())


def use_fewer_reshapes(model: Any) -> None:
    """Leaves out reshapings of a file, where the same values go on without them.

    Args:
        model: a .tflite file taken apart.
    """
    for graph in model.subgraphs:
        _Shortcuts(model, graph).take()


class _Shortcuts:
    """Ways around the reshapings of one graph."""

    def __init__(self, model: Any, graph: Any):
        self.graph = graph
        self.calls = [(name, operator) for name, operator, _ in calls(model, graph)]
        self.ends = {*map(int, graph.inputs), *map(int, graph.outputs)}
        self.readers: dict[int, set[str]] = defaultdict(set)
        for name, operator in self.calls:
            for index in operator.inputs:
                self.readers[int(index)].add(name)
        # Of tensors that are reshaped: what they were before the first of reshapings,
        # and which other tensor is the very same.
        self.origins: dict[int, int] = {}
        self.same: dict[int, int] = {}

    def take(self) -> None:
        """Lets operators read what is before reshapings; drops those nobody reads."""
        for name, operator in self.calls:
            read = [self.same.get(int(index), int(index)) for index in operator.inputs]
            operator.inputs = read
            if name == "RESHAPE":
                self._reshape(operator)
            elif name in _VALUE_BY_VALUE:
                self._value_by_value(operator)
            elif name == "BATCH_MATMUL":
                self._product(operator)
        needed = {index for _, operator in self.calls for index in operator.inputs}
        needed |= self.ends
        self.graph.operators = [
            operator
            for name, operator in self.calls
            if name != "RESHAPE" or int(operator.outputs[0]) in needed
        ]

    def _reshape(self, operator: Any) -> None:
        read, made = operator.inputs[0], int(operator.outputs[0])
        source = self.origins.get(read, read)
        quantized = (self.graph.tensors[i].quantization for i in (source, made))
        if len({content_of(one) for one in quantized}) > 1:
            return
        operator.inputs = [source, *operator.inputs[1:]]
        self.origins[made] = source
        shape = self._shape(source)
        if shape == self._shape(made) and shape.count(-1) < 2 and made not in self.ends:
            self.same[made] = source

    def _value_by_value(self, operator: Any) -> None:
        """Reads what is before a reshaping, if another one follows."""
        source = self.origins.get(operator.inputs[0])
        made = int(operator.outputs[0])
        if source is None or made in self.ends or self.readers[made] != {"RESHAPE"}:
            return
        operator.inputs = [source]
        before, tensor = self.graph.tensors[source], self.graph.tensors[made]
        tensor.shape, tensor.shapeSignature = before.shape, before.shapeSignature

    def _product(self, operator: Any) -> None:
        """Multiplies a row with itself, where it was with itself as a column.

        So squares are summed up, as for a variance. Told to, the kernel takes a row for
        a column, and saves turning it as well.
        """
        row, column = operator.inputs
        options = operator.builtinOptions
        *before, length, width = self._shape(column)
        source = self.origins.get(row)
        alike = source is not None and source == self.origins.get(column)
        turned = width == 1 and self._shape(row) == (*before, 1, length)
        if alike and turned and not options.adjX and not options.adjY:
            operator.inputs = [row, row]
            operator.builtinOptions = copy.copy(options)
            operator.builtinOptions.adjY = True

    def _shape(self, index: int) -> tuple[int, ...]:
        return shape_of(self.graph.tensors[index])
