"""Slices that take a tensor apart, as the one operator that does it.

A recurrent layer reads one step after the other, and takes the gates of each apart.
By slices each reader walks over the tensor anew; UNPACK and SPLIT do it once.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.rewriting import (
    calls,
    integers,
    new_constant,
    new_operator,
    shape_of,
)

# XNNPACK splits into so many parts. It slices as well, and a detour to a kernel that is
# not among its own costs more than slices do.
_MOST_PARTS = 4


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of one axis of a tensor, whose other axes are whole.

    Attributes:
        tensor: what is sliced.
        axis: where.
        start: the first place that it has of the axis.
        stop: the first that it has not.
        drops: whether the axis, of one place, is gone from the result.
        position: of the operator, among those of its graph.
        result: the tensor that it makes.
    """

    tensor: int
    axis: int
    start: int
    stop: int
    drops: bool
    position: int
    result: int


def use_splits(model: Any) -> bool:
    """Puts SPLIT and UNPACK where slices take a tensor apart; says if there are any.

    Args:
        model: a .tflite file taken apart.
    """
    changed = False
    for graph in model.subgraphs:
        groups = defaultdict(list)
        for part in slices_of(model, graph):
            groups[part.tensor, part.axis, part.drops].append(part)
        operators: list = list(graph.operators)
        for found in groups.values():
            parts = sorted(found, key=lambda part: part.start)
            if not _is_even(parts, graph):
                continue
            made = _taking_apart(model, graph, parts)
            positions = [part.position for part in parts]
            for position in positions:
                operators[position] = None
            operators[min(positions)] = made
            changed = True
        graph.operators = [one for one in operators if one is not None]
    return changed


def _is_even(parts: list[Slice], graph: Any) -> bool:
    """Returns whether slices have all of an axis, each as much as the others."""
    first = parts[0]
    tensor, width = graph.tensors[first.tensor], first.stop - first.start
    if shape_of(tensor)[first.axis] < 0:
        return False  # of how many parts nobody knows
    size = int(tensor.shape[first.axis])
    starts = [part.start for part in parts]
    alike = all(part.stop - part.start == width for part in parts)
    few = first.drops or len(parts) <= _MOST_PARTS
    return len(parts) > 1 and alike and few and starts == list(range(0, size, width))


def _taking_apart(model: Any, graph: Any, parts: list[Slice]) -> Any:
    """Returns the operator that makes all of some slices."""
    schema, first = read_schema(), parts[0]
    results = [part.result for part in parts]
    kind = graph.tensors[first.tensor].type
    if first.drops:
        unpack = schema.UnpackOptionsT()
        unpack.num, unpack.axis = len(parts), first.axis
        version = _version(kind, {"INT8": 2, "UINT8": 2, "BOOL": 3, "INT16": 4})
        return new_operator(model, "UNPACK", version, [first.tensor], results, unpack)
    split = schema.SplitOptionsT()
    split.numSplits = len(parts)
    axis = new_constant(model, graph, np.array(first.axis, np.int32), "split_axis")
    version = _version(kind, {"INT8": 2, "INT32": 3, "INT16": 4})
    return new_operator(model, "SPLIT", version, [axis, first.tensor], results, split)


def _version(kind: int, versions: dict[str, int]) -> int:
    """Returns since which version an operator takes a type of numbers."""
    types = vars(read_schema().TensorType)
    return {types[name]: version for name, version in versions.items()}.get(kind, 1)


def slices_of(model: Any, graph: Any) -> Iterator[Slice]:
    """Yields the slices of one axis that a graph has."""
    for position, (name, operator, tensors) in enumerate(calls(model, graph)):
        if name != "STRIDED_SLICE":
            continue
        start, stop, strides = (integers(model, one, np.int32) for one in tensors[1:4])
        options = operator.builtinOptions
        others = options.ellipsisMask or options.newAxisMask or options.offset
        if others or not len(start) == len(stop) == len(strides) or any(strides != 1):
            continue
        ranges = [
            _range(tensors[0], axis, start[axis], stop[axis], options)
            for axis in range(len(start))
        ]
        cut = [one for one in ranges if one is not None]
        if len(cut) == 1 and cut[0][1] < cut[0][2]:
            read, made = int(operator.inputs[0]), int(operator.outputs[0])
            yield Slice(read, *cut[0], position=position, result=made)


def _range(
    tensor: Any, axis: int, start: int, stop: int, options: Any
) -> tuple[int, int, int, bool] | None:
    """Returns axis, start, stop and whether the axis goes; `None` of a whole axis."""
    free = shape_of(tensor)[axis] < 0
    size, bit = int(tensor.shape[axis]), 1 << axis
    first = 0 if options.beginMask & bit else int(start)
    last = size if options.endMask & bit else int(stop)
    if options.shrinkAxisMask & bit:
        first += size * (first < 0)
        return axis, first, first + 1, True
    if first == 0 and (options.endMask & bit or (last >= size and not free)):
        return None
    first, last = (one + size * (one < 0) for one in (first, last))
    return axis, first, min(last, size), False
