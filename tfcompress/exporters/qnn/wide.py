"""Sums in 16 bits, which are rounded to 8 behind.

The NPU's kernels of 8 bits round twice: to a sixteenth of a step or so, and then to a
step, so that one value in fifty is a step off, and its sums of two tensors one in a
hundred. Its kernels of 16 bits take the same kernels of 8 bits. With 256 of their steps
in one of 8 bits, which numbers of 8 bits are whole in, one value in five hundred is
off. Operators that the NPU looks up in tables are right in 8 bits, and stay.
"""

from __future__ import annotations

from typing import Any

from tfcompress.exporters.qnn.nodes import (
    Grid,
    drop_unread_nodes,
    grids_of,
    makers_of,
    numbers_of,
    only,
    readers_of,
    replace_nodes,
    rounding,
)

_SUMS = frozenset({"Add", "Conv", "ConvTranspose", "Gemm", "MatMul", "Softmax", "Sub"})
# Steps of 16 bits in one of 8.
_PARTS = 256


def widen_sums(graph: Any) -> None:
    """Lets the sums of a graph of integers be computed in 16 bits."""
    readers, grids = readers_of(graph), grids_of(graph)
    wide = _Wide(graph)
    nodes = []
    for node in graph.node:
        behind = only(readers, node.output[0])
        rounded = behind is not None and behind.op_type == "QuantizeLinear"
        moved = [name for name in node.input if wide.can(grids.get(name), name)]
        # Of two tensors the NPU takes the second in 8 bits only.
        moved = moved[:1] if node.op_type == "MatMul" else moved
        if wide.enters(node) and wide.can(grids[node.output[0]], node.output[0]):
            nodes += wide.entrance(node)
            continue
        if node.op_type not in _SUMS or not rounded or not moved:
            nodes.append(node)
            continue
        for name in moved:
            nodes += wide.input(name, grids[name])
        node.input[:] = [wide.names.get(n, n) if n in moved else n for n in node.input]
        nodes.append(node)
        nodes += wide.output(node, tuple(behind.input[1:]))
    replace_nodes(graph, nodes)
    drop_unread_nodes(graph)


class _Wide:
    """The tensors of 16 bits beside those of 8.

    Attributes:
        names: those of the tensors of 16 bits, by those of 8.
    """

    def __init__(self, graph: Any):
        self.names: dict[str, str] = {}
        self._graph = graph
        self._numbers = numbers_of(graph)
        self._grids: dict[Grid, Grid] = {}
        self._constants = {one.name for one in graph.initializer}
        self._made = makers_of(graph)
        self._inputs = {one.name for one in graph.input}

    def can(self, grid: Grid | None, name: str) -> bool:
        """Returns whether a tensor is activations of 8 bits."""
        if grid is None or self._made[name].input[0] in self._constants:
            return False
        zero = self._numbers.get(grid[1])
        return zero is not None and zero.dtype == "uint8"

    def enters(self, node: Any) -> bool:
        """Returns whether a node makes floats of the integers of the model's input."""
        before = self._made.get(node.input[0]) if node.input else None
        made = node.op_type == "DequantizeLinear"
        return made and before is not None and before.input[0] in self._inputs

    def entrance(self, node: Any) -> list[Any]:
        """Returns the nodes of an input that comes in with 16 bits, and its 8 behind.

        The compiler finds no memory for products of an input of 8 bits that it widens
        itself if it has 32 columns or less.
        """
        name, grid = node.output[0], tuple(node.input[1:])
        node.output[0] = f"{name}_entering"
        self.names[name] = f"{name}_wide"
        widened = rounding(node.output[0], self.names[name], self._wider(grid))
        return [node, *widened, *rounding(self.names[name], name, grid)]

    def input(self, name: str, grid: Grid) -> list[Any]:
        """Returns the nodes that make a tensor one of 16 bits, unless there are any."""
        if name in self.names:
            return []
        self.names[name] = f"{name}_wide"
        return rounding(name, self.names[name], self._wider(grid))

    def output(self, node: Any, grid: Grid) -> list[Any]:
        """Returns the nodes behind an operator that makes 16 bits."""
        name = node.output[0]
        node.output[0] = f"{name}_sum"
        return rounding(node.output[0], name, self._wider(grid))

    def _wider(self, grid: Grid) -> Grid:
        """Returns a scale for 16 bits, which numbers of 8 bits are whole in."""
        import numpy as np
        from onnx import numpy_helper

        if grid not in self._grids:
            scale, zero = (self._numbers[name] for name in grid)
            names = tuple(f"{one}_wide_{len(self._grids)}" for one in grid)
            self._grids[grid] = names
            arrays = np.float32(scale / _PARTS), np.array(int(zero) * _PARTS, "uint16")
            self._graph.initializer.extend(
                numpy_helper.from_array(np.asarray(array), name)
                for array, name in zip(arrays, names)
            )
        return self._grids[grid]
