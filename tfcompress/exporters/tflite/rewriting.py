"""Changing .tflite files: taken apart into objects, and put together again."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema

# The schema wants it so: kernels read buffers in place, in words of up to this size.
_ALIGNMENT = 16

# Where operators have their kernel, and maybe a bias, among their inputs.
WITH_KERNEL = {
    **dict.fromkeys(("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"), slice(1, 3)),
    "TRANSPOSE_CONV": slice(1, 4, 2),  # its input is between the two
}


def take_apart(content: bytes) -> Any:
    """Returns the `ModelT` of a .tflite file.

    The converter lets equal constants share a tensor, or a buffer. Here each operator
    has kernels and biases of its own, so that they can be changed.
    """
    model = read_schema().ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        readers = Counter(int(i) for op in graph.operators for i in op.inputs)
        for name, operator, tensors in _calls(model, graph):
            for place, tensor in enumerate(tensors if name in WITH_KERNEL else ()):
                constant = tensor is not None and integers(model, tensor, np.int8).size
                if not constant or not place:
                    continue
                if readers[int(operator.inputs[place])] > 1:
                    graph.tensors.append(copy.deepcopy(tensor))
                    operator.inputs = np.array(operator.inputs)  # a view of the file
                    operator.inputs[place] = len(graph.tensors) - 1
                own = graph.tensors[operator.inputs[place]]
                model.buffers.append(copy.copy(model.buffers[own.buffer]))
                own.buffer = len(model.buffers) - 1
    return model


def put_together(model: Any) -> bytes:
    """Returns the file of a `ModelT`: equal buffers once, each aligned to 16 bytes."""
    _share_buffers(model)
    model.buffers = [_AlignedBuffer(buffer) for buffer in model.buffers]
    size = sum(len(b.data) + 64 for b in model.buffers if b.data is not None)
    builder = flatbuffers.Builder(size + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _share_buffers(model: Any) -> None:
    """Leaves one buffer of those with equal bytes, and none that nobody reads."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    # The first is empty by definition; metadata refer to theirs by number as well.
    holders = [*tensors, *(model.metadata or [])]
    old, kept = model.buffers, [model.buffers[0]]
    numbers: dict[Any, int] = {}
    for holder in holders:
        data = old[holder.buffer].data
        filled = data is not None and len(data)
        key = bytes(bytearray(data)) if filled else holder.buffer
        if holder.buffer and key not in numbers:
            numbers[key] = len(kept)
            kept.append(old[holder.buffer])
        holder.buffer = numbers[key] if holder.buffer else 0
    model.buffers = kept


def operators(model: Any) -> Iterator[tuple[str, Any, list]]:
    """Yields name, operator and input tensors (`None` where left out) of each call."""
    for graph in model.subgraphs:
        yield from _calls(model, graph)


def _calls(model: Any, graph: Any) -> Iterator[tuple[str, Any, list]]:
    codes = vars(read_schema().BuiltinOperator).items()
    names = {code: name for name, code in codes}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
        tensors = [graph.tensors[i] if i >= 0 else None for i in operator.inputs]
        yield name, operator, tensors


def integers(model: Any, tensor: Any, dtype: Any) -> np.ndarray:
    """Returns what the buffer of a tensor holds; empty for none."""
    data = model.buffers[tensor.buffer].data
    return np.frombuffer(b"" if data is None else bytes(bytearray(data)), dtype)


def store(model: Any, tensor: Any, values: np.ndarray) -> None:
    """Puts an array into the buffer of a tensor."""
    model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)


def rescale_bias(model: Any, bias: Any, factor: np.ndarray) -> None:
    """Gives a 32-bit bias scales that are `factor` times as large."""
    added = np.round(integers(model, bias, np.int32) / factor)
    store(model, bias, added.astype(np.int32))
    bias.quantization.scale = scaled(bias.quantization.scale, factor)


def scaled(scale: Any, factor: np.ndarray) -> list[float]:
    """Returns scales times `factor`, as the file's float32 numbers."""
    return [float(s) for s in np.asarray(scale, np.float32) * factor]


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
