"""Where the sign of a zero is lost.

`x + 0` makes zero of minus zero and leaves every other number as it is. It can go where
no output can tell the two zeros apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.graph import producer, with_port
from tfcompress.exporters.saved_model.served_nodes import Served
from tfcompress.exporters.saved_model.whole_numbers import PRODUCTS

# What they make of zero and of minus zero differs in the sign of a zero at most.
_PASSING = frozenset(
    {
        *("AddV2", "AvgPool", "BatchToSpaceND", "BiasAdd", "Cast", "ClipByValue"),
        *("ConcatV2", "DepthwiseConv2dNative", "ExpandDims", "Floor", "GatherV2"),
        *("Identity", "Maximum", "MaxPool", "Mean", "Minimum", "Mul", "Neg"),
        *("Pack", "Relu", "Reshape", "ResizeNearestNeighbor", "Rint", "Round"),
        *("SpaceToBatchND", "Split", "SplitV", "Squeeze", "StridedSlice", "Sub"),
        *("Tanh", "Tile", "Transpose", "Unpack"),
    }
)
# These begin to add at zero, or make a number of zero that is none.
_LOSING = frozenset({*PRODUCTS, "Conv2D", "Exp", "Sigmoid", "Softmax", "Sum"})
_ADDING = frozenset({"AddV2", "BiasAdd"})


class Zeros:
    """Knows of which tensors nobody can tell zero from minus zero.

    Args:
        served: the graph.
    """

    def __init__(self, served: Served):
        self._served = served
        self._alike: set[str] = set()
        outputs = {producer(tensor) for tensor in served.outputs}
        for node in reversed(served.alive()):
            readers = served.readers.get(node.name, [])
            if node.name not in outputs and all(
                self._loses(reader, node.name) for reader in readers
            ):
                self._alike.add(node.name)

    def are_alike(self, node: Any) -> bool:
        """Returns whether all that read a node lose the sign of its zeros."""
        return node.name in self._alike

    def _loses(self, reader: Any, name: str) -> bool:
        if reader.op in _LOSING:
            return True
        if reader.op == "RealDiv" and producer(reader.input[1]) == name:
            return False
        if reader.op in _ADDING and any(map(self._makes_one_zero, reader.input)):
            return True
        passing = reader.op in _PASSING | {"RealDiv"}
        return passing and self.are_alike(reader)

    def _makes_one_zero(self, tensor: str) -> bool:
        """Returns whether zero and minus zero are alike once this is added."""
        key = with_port(tensor)
        value = self._served.values.get(key, self._served.weights.get(key))
        return value is not None and not np.any((value == 0) & np.signbit(value))
