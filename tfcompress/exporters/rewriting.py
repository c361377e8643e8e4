"""Changing .tflite files: taken apart into objects, and put together again."""

from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np

from tfcompress.exporters.flatbuffer import read_schema

# The schema wants it so: kernels read buffers in place, in words of up to this size.
_ALIGNMENT = 16


def take_apart(content: bytes) -> Any:
    """Returns the `ModelT` of a .tflite file."""
    return read_schema().ModelT.InitFromPackedBuf(content, 0)


def put_together(model: Any) -> bytes:
    """Returns the file of a `ModelT`, every buffer aligned to 16 bytes."""
    model.buffers = [_AlignedBuffer(buffer) for buffer in model.buffers]
    size = sum(len(b.data) + 64 for b in model.buffers if b.data is not None)
    builder = flatbuffers.Builder(size + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operators(model: Any) -> Iterator[tuple[str, Any, list]]:
    """Yields name, operator and input tensors (`None` where left out) of each call."""
    codes = vars(read_schema().BuiltinOperator).items()
    names = {code: name for name, code in codes}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
            tensors = [graph.tensors[i] if i >= 0 else None for i in operator.inputs]
            yield name, operator, tensors


def integers(model: Any, tensor: Any, dtype: Any) -> np.ndarray:
    """Returns what the buffer of a tensor holds; empty for none."""
    data = model.buffers[tensor.buffer].data
    return np.frombuffer(b"" if data is None else bytes(bytearray(data)), dtype)


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Returns the bytes of an array as a buffer holds them."""
    return np.frombuffer(values.tobytes(), np.uint8)


def with_all_outputs(content: bytes) -> bytes:
    """Returns the file with every tensor it computes as an output of its signature.

    Runtimes give memory back during a run, and delegates have no inner tensors at
    all, except of what is an output. The new ones are named by their index.
    """
    model = take_apart(content)
    signature = model.signatureDefs[0]
    graph = model.subgraphs[signature.subgraphIndex]
    known = {*map(int, graph.outputs), *map(int, graph.inputs)}
    made = [int(i) for op in graph.operators for i in op.outputs]
    added = [i for i in dict.fromkeys(made) if i not in known]
    for index in added:
        entry = read_schema().TensorMapT()
        entry.name, entry.tensorIndex = f"tensor_{index}", index
        signature.outputs.append(entry)
    graph.outputs = [*map(int, graph.outputs), *added]
    return put_together(model)


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
