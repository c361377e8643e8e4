"""Putting .tflite files together: what is equal is stored once.

Runtimes want as many zero points as scales, so the kernel of a Dense layer has eight
bytes of zeros for each of its channels, and its bias has them again. A flatbuffer may
refer to one vector, or one table, from many places; readers see no difference.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema

# The schema wants it so: kernels read buffers in place, in words of up to this size.
_ALIGNMENT = 16


def put_together(model: Any) -> bytes:
    """Returns the file of a `ModelT`: equal parts once, buffers aligned to 16 bytes.

    Args:
        model: a .tflite file taken apart. It is used up by this.
    """
    for number in range(len(model.subgraphs)):
        _keep(model, number, {index: index for index in _used(model, number)})
    _share_buffers(model)
    for number in range(len(model.subgraphs)):
        _keep(model, number, _representatives(model, number))
    _share_tables(model)
    model.buffers = [_AlignedBuffer(buffer) for buffer in model.buffers]
    size = sum(len(b.data) + 64 for b in model.buffers if b.data is not None)
    builder = _SharingBuilder(size + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _entries(model: Any, number: int) -> list:
    """Returns the entries of signatures that name tensors of a graph."""
    return [
        entry
        for signature in model.signatureDefs or []
        if signature.subgraphIndex == number
        for entry in [*(signature.inputs or []), *(signature.outputs or [])]
    ]


def _ends(model: Any, number: int) -> set[int]:
    """Returns the tensors that a graph is called with, or gives back."""
    graph = model.subgraphs[number]
    named = (entry.tensorIndex for entry in _entries(model, number))
    return {int(i) for i in (*graph.inputs, *graph.outputs, *named)}


def _used(model: Any, number: int) -> list[int]:
    """Returns the tensors that something refers to, in their order."""
    graph, used = model.subgraphs[number], _ends(model, number)
    for operator in graph.operators:
        for indices in (operator.inputs, operator.outputs, operator.intermediates):
            used.update(int(i) for i in ([] if indices is None else indices))
    used.update(_steps_of(graph.tensors[i]) for i in [*used] if i >= 0)
    return sorted(index for index in used if 0 <= index < len(graph.tensors))


def _steps_of(tensor: Any) -> int:
    """Returns the tensor that holds the steps of blocks of another; -1 for none."""
    details = getattr(tensor.quantization, "details", None)
    return int(getattr(details, "scales", -1))


def _representatives(model: Any, number: int) -> dict[int, int]:
    """Returns for each tensor the first one that is the same constant."""
    graph, ends = model.subgraphs[number], _ends(model, number)
    first: dict[Any, int] = {}
    same = {}
    for index, tensor in enumerate(graph.tensors):
        constant = tensor.buffer and index not in ends and not tensor.isVariable
        same[index] = first.setdefault(content_of(tensor) if constant else index, index)
    return same


def _keep(model: Any, number: int, same: dict[int, int]) -> None:
    """Keeps some tensors of a graph, under new numbers.

    Args:
        model: the file.
        number: that of the graph.
        same: which tensor stands for each; those in it are kept.
    """
    graph = model.subgraphs[number]
    kept = sorted(set(same.values()))
    places = {index: place for place, index in enumerate(kept)}

    def moved(index: Any) -> int:
        index = int(index)
        return places[same[index]] if index in same else index

    def all_moved(indices: Any) -> list[int] | None:
        return None if indices is None else [moved(index) for index in indices]

    for operator in graph.operators:
        operator.inputs = all_moved(operator.inputs)
        operator.outputs = all_moved(operator.outputs)
        operator.intermediates = all_moved(operator.intermediates)
    graph.inputs, graph.outputs = all_moved(graph.inputs), all_moved(graph.outputs)
    for entry in _entries(model, number):
        entry.tensorIndex = moved(entry.tensorIndex)
    graph.tensors = [graph.tensors[index] for index in kept]
    for tensor in graph.tensors:
        if _steps_of(tensor) >= 0:
            tensor.quantization.details.scales = moved(_steps_of(tensor))


def _share_buffers(model: Any) -> None:
    """Leaves one buffer of those with equal bytes, and none that nobody reads."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    # The first is empty by definition; metadata refer to theirs by number as well.
    holders = [*tensors, *(model.metadata or [])]
    old, kept = model.buffers, [model.buffers[0]]
    numbers: dict[Any, int] = {}
    for holder in holders:
        buffer = old[holder.buffer]
        filled = buffer.data is not None and len(buffer.data)
        if not filled and not buffer.offset:
            holder.buffer = 0  # which means that there is none
            continue
        key = bytes(bytearray(buffer.data)) if filled else holder.buffer
        if key not in numbers:
            numbers[key] = len(kept)
            kept.append(buffer)
        holder.buffer = numbers[key]
    model.buffers = kept


def _share_tables(model: Any) -> None:
    """Lets equal scales, and equal options of operators, be written once."""
    written: dict[Any, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.quantization is not None:
                tensor.quantization = _Once(tensor.quantization, written)
        for operator in graph.operators:
            if operator.builtinOptions is not None:
                operator.builtinOptions = _Once(operator.builtinOptions, written)


def content_of(part: Any) -> Any:
    """Returns what a part of a file says, as something that can be compared."""
    if isinstance(part, np.ndarray):
        return part.dtype.str, part.tobytes()
    if isinstance(part, list | tuple):
        return tuple(map(content_of, part))
    if not hasattr(part, "__dict__"):
        return part
    return type(part).__name__, tuple(map(content_of, vars(part).values()))


class _Once:
    """A table that is written at its first place, and referred to from others."""

    def __init__(self, table: Any, written: dict[Any, int]):
        self._table, self._written = table, written

    def Pack(self, builder: Any) -> int:  # the generated code calls it so
        key = content_of(self._table)
        if key not in self._written:
            self._written[key] = self._table.Pack(builder)
        return self._written[key]


class _AlignedBuffer:
    """A buffer that the builder writes to a multiple of 16 bytes."""

    def __init__(self, buffer: Any):
        self.data, self.offset, self.size = buffer.data, buffer.offset, buffer.size

    def Pack(self, builder: Any) -> int:  # the generated code calls it so
        schema = read_schema()
        vector = None
        if self.data is not None and len(self.data):
            data = bytes(bytearray(self.data))
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        schema.BufferAddOffset(builder, self.offset)
        schema.BufferAddSize(builder, self.size)
        return schema.BufferEnd(builder)


class _SharingBuilder(flatbuffers.Builder):
    """A builder that writes each vector of numbers once."""

    def __init__(self, size: int):
        super().__init__(size)
        self._written: dict[tuple[int, bytes], int] = {}
        # Of the vector that is being written: the end of what was before it, its own
        # end and its alignment. None of those that hold offsets, which are relative.
        self._vector: tuple[int, int, int] | None = None

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        before = self.Offset()
        end = super().StartVector(elemSize, numElems, alignment)
        self._vector = before, end, alignment
        return end

    def PrependUOffsetTRelative(self, off: int) -> None:
        self._vector = None
        super().PrependUOffsetTRelative(off)

    def EndVector(self, numElems: int | None = None) -> int:
        offset = super().EndVector(numElems)
        if self._vector is None:
            return offset
        (before, end, alignment), self._vector = self._vector, None
        size = len(self.Bytes)
        key = alignment, bytes(self.Bytes[size - offset : size - end])
        if key in self._written:
            self.head = size - before  # nothing was written
        return self._written.setdefault(key, offset)
