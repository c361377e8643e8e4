"""Changing .tflite files: taken apart into objects, and put together again."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress.exporters.tflite.assembling import put_together
from tfcompress.exporters.tflite.flatbuffer import read_schema

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
        for name, operator, tensors in calls(model, graph):
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


def operators(model: Any) -> Iterator[tuple[str, Any, list]]:
    """Yields what `calls` does, of all graphs."""
    for graph in model.subgraphs:
        yield from calls(model, graph)


def calls(model: Any, graph: Any) -> Iterator[tuple[str, Any, list]]:
    """Yields name, operator and input tensors (`None` where left out) of each call."""
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


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Returns the shape of a tensor, with -1 for sizes that are free."""
    signature = tensor.shapeSignature
    known = tensor.shape if signature is None or not len(signature) else signature
    return tuple(map(int, known))


def new_constant(model: Any, graph: Any, values: np.ndarray, name: str) -> int:
    """Adds a 32-bit constant to a graph; returns its number."""
    schema = read_schema()
    tensor = schema.TensorT()
    tensor.shape, tensor.name, tensor.hasRank = list(values.shape), name, True
    tensor.type, tensor.buffer = schema.TensorType.INT32, len(model.buffers)
    model.buffers.append(schema.BufferT())
    store(model, tensor, values)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def new_operator(
    model: Any,
    name: str,
    version: int,
    inputs: list[int],
    outputs: list[int],
    options: Any,
) -> Any:
    """Returns a builtin operator, whose code the model then has.

    Args:
        model: a .tflite file taken apart.
        name: that of the operator in the schema.
        version: since which version its kernels take these tensors.
        inputs: numbers of its tensors.
        outputs: the same.
        options: the object of its builtin options; None if it has none.
    """
    schema = read_schema()
    number = getattr(schema.BuiltinOperator, name)
    codes = [
        (max(code.builtinCode, code.deprecatedBuiltinCode), code.version)
        for code in model.operatorCodes
    ]
    if (number, version) not in codes:
        code = schema.OperatorCodeT()
        # Old files keep the code in a byte, new ones in both fields.
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.version = version
        model.operatorCodes.append(code)
        codes.append((number, version))
    operator = schema.OperatorT()
    operator.opcodeIndex = codes.index((number, version))
    operator.inputs, operator.outputs = inputs, outputs
    if options is not None:
        kind = type(options).__name__.removesuffix("T")
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    return operator


def rescale_bias(model: Any, bias: Any, factor: np.ndarray) -> None:
    """Gives a 32-bit bias scales that are `factor` times as large."""
    added = np.round(integers(model, bias, np.int32) / factor)
    store(model, bias, added.astype(np.int32))
    bias.quantization.scale = scaled(bias.quantization.scale, factor)


def scaled(scale: Any, factor: np.ndarray) -> list[float]:
    """Returns scales times `factor`, as the file's float32 numbers."""
    return [float(s) for s in np.asarray(scale, np.float32) * factor]


def with_all_outputs(content: bytes, signature_name: str | None = None) -> bytes:
    """Returns the file with every tensor it computes as an output of its signature.

    Runtimes give memory back during a run, and delegates have no inner tensors at
    all, except of what is an output. The new ones are named by their index.

    Args:
        content: the file.
        signature_name: which signature; None for the first.
    """
    model = take_apart(content)
    signature = next(
        one
        for one in model.signatureDefs
        if signature_name is None or one.signatureKey.decode() == signature_name
    )
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
