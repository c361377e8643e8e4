"""Clips, as QNN computes them in integers: none, `Relu`, or a choice beside a constant.

A clip in floats stands between a kernel and the integers behind it. Where these cannot
stand for what it cuts off it is left out; else the tensor is rounded before it, which
is the same, since rounding keeps the order of numbers. QNN's own operator for two
bounds is not used: fused with the convolution before it, it is off by up to 128 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfcompress.exporters.qnn.nodes import (
    Grid,
    grids_of,
    numbers_of,
    only,
    readers_of,
    replace_nodes,
    rounding,
)

KINDS = frozenset({"Clip", "Relu"})


def write_out_clips(graph: Any, wanted: dict[str, Grid]) -> None:
    """Replaces the clips of a graph.

    Args:
        graph: the graph.
        wanted: the scales that tensors get behind what moves them.
    """
    readers, numbers, grids = readers_of(graph), numbers_of(graph), grids_of(graph)
    nodes = []
    for node in graph.node:
        grid = wanted.get(node.output[0]) if node.op_type in KINDS else None
        if grid is None or only(readers, node.output[0]) is None:
            nodes.append(node)
            continue
        clip = _Clip(node, grid, numbers)
        steps = clip.steps()
        last = node.input[0]
        if steps and grids.get(last) != grid:
            nodes += rounding(last, f"{clip.name}_rounded", grid)
            last = f"{clip.name}_rounded"
        for place, step in enumerate(steps):
            if place:
                nodes += rounding(last, f"{last}_rounded", grid)
                last = f"{last}_rounded"
            made, constants = clip.nodes_of(step, last)
            graph.initializer.extend(constants)
            nodes += made
            last = made[-1].output[0]
        # What reads the clip reads what was made of it.
        for reader in readers[node.output[0]]:
            renamed = [last if n == node.output[0] else n for n in reader.input]
            reader.input[:] = renamed
    replace_nodes(graph, nodes)


@dataclass
class _Clip:
    """A clip in front of integers.

    Attributes:
        node: the clip.
        grid: names of the scale and the zero point behind it.
        numbers: the constants of the graph that are single numbers.
    """

    node: Any
    grid: Grid
    numbers: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.node.output[0])

    def steps(self) -> list[tuple[str, float]]:
        """Returns operators and bounds of what the integers do not cut off anyway."""
        import numpy as np

        scale, zero = (self.numbers[name] for name in self.grid)
        kept = np.iinfo(zero.dtype)
        first, last = ((end - int(zero)) * float(scale) for end in (kept.min, kept.max))
        low, high = self._bounds()
        steps = []
        if low is not None and first < low:
            steps.append(("Relu" if low == 0 else "Max", low))
        if high is not None and last > high:
            steps.append(("Min", high))
        return steps

    def _bounds(self) -> tuple[float | None, float | None]:
        if self.node.op_type == "Relu":
            return 0.0, None
        names = [*self.node.input[1:], "", ""][:2]
        low, high = (float(self.numbers[n]) if n else None for n in names)
        return low, high

    def nodes_of(self, step: tuple[str, float], source: str) -> tuple[list, list]:
        """Returns the nodes of an operator that reads `source`, and its constants."""
        import numpy as np
        from onnx import helper, numpy_helper

        kind, bound = step
        made = f"{self.name}_{kind}"
        if kind == "Relu":
            return [helper.make_node(kind, [source], [made], made)], []
        scale, zero = (self.numbers[name] for name in self.grid)
        code = np.round(bound / float(scale)) + int(zero)
        integers = numpy_helper.from_array(
            code.astype(zero.dtype).reshape(1), f"{made}_bound_integers"
        )
        nodes = [
            helper.make_node(
                "DequantizeLinear", [integers.name, *self.grid], [f"{made}_bound"]
            ),
            helper.make_node(kind, [source, f"{made}_bound"], [made], made),
        ]
        return nodes, [integers]
