"""Reads .tflite files without running them."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.core.errors import ArtifactError
from tfcompress.exporters.tensors import OperatorCount, TensorInfo

# They only say that the same numbers have other axes.
_RESHAPES = {"RESHAPE", "EXPAND_DIMS", "SQUEEZE"}
#: Operators that reshape, move between number formats, or hand over to other graphs:
#: they compute nothing themselves.
NOT_COMPUTE = {
    "QUANTIZE",
    "DEQUANTIZE",
    "CAST",
    "DELEGATE",
    "WHILE",
    "IF",
    "CALL_ONCE",
}
NOT_COMPUTE |= {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "SHAPE"} | _RESHAPES
# Which input is the kernel, its axis that is no part of the sums, and whether each
# value of the third input (and not of the output) meets the rest of it.
_KERNEL_AXES = {
    "CONV_2D": (1, 0, False),
    "CONV_3D": (1, 4, False),
    "DEPTHWISE_CONV_2D": (1, 3, False),
    "FULLY_CONNECTED": (1, 0, False),
    "TRANSPOSE_CONV": (1, 3, True),
    "CONV_3D_TRANSPOSE": (1, 4, True),
}
# What a weight may go through on its way to an operator.
_HOLD_WEIGHTS = {"DEQUANTIZE", *_RESHAPES}
_FLOATS = {"float16", "float32", "float64", "bfloat16"}
_INDEX = {"int32", "int64", "bool"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a .tflite graph; `constant` holds its buffer, if it has one."""

    info: TensorInfo
    index: int
    constant: memoryview | None
    zero_points: tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """An operator of a .tflite graph, its custom code if it is no builtin."""

    name: str
    custom: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class FileSignature:
    """A signature: its name ("" of a file without any), its graph, and its ends."""

    name: str
    graph: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class TFLiteFile:
    """The content of a .tflite file.

    Args:
        content: the bytes of the file.
        source: what to call it in error messages.

    Raises:
        ArtifactError: if it is no .tflite file, truncated or damaged.
    """

    def __init__(self, content: bytes, source: Any = "this file"):
        if len(content) < 8 or content[4:8] != b"TFL3":
            raise _damaged(source, "no TFL3 identifier")
        try:
            self._read(content)
            # These need operators to have their operands, and kernels their axes.
            self.integer_coverage(), self.outputs_with_steps()
        except Exception as error:
            # The generated reader checks nothing: damage shows as any exception.
            raise _damaged(source, f"{type(error).__name__} while reading") from error

    @classmethod
    def open(cls, path: Path) -> "TFLiteFile":
        """Reads the file at `path`."""
        try:
            return cls(path.read_bytes(), path)
        except OSError as error:
            raise _damaged(path, error.strerror or error) from error

    def _read(self, content: bytes) -> None:
        schema = read_schema()
        self._content = memoryview(content)
        self._types = _names(schema.TensorType)
        self._codes = _names(schema.BuiltinOperator)
        model = schema.Model.GetRootAs(content, 0)
        self._buffers = [self._buffer(model, i) for i in range(model.BuffersLength())]
        graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
        self.tensors = [self._tensors(graph) for graph in graphs]
        self.graphs = [
            tuple(self._operators(model, graph, tensors))
            for graph, tensors in zip(graphs, self.tensors)
        ]
        self.operators = tuple(op for graph in self.graphs for op in graph)
        self.signatures = tuple(self._signatures(model, graphs))
        #: Those of the first signature.
        self.inputs = self.signatures[0].inputs
        self.outputs = self.signatures[0].outputs

    def _signatures(self, model: Any, graphs: list) -> Iterator["FileSignature"]:
        for number in range(model.SignatureDefsLength()):
            raw = model.SignatureDefs(number)
            graph = raw.SubgraphIndex()
            tensors = self.tensors[graph]
            yield FileSignature(
                (raw.SignatureKey() or b"").decode(),
                graph,
                _signature(raw.Inputs, raw.InputsLength(), tensors),
                _signature(raw.Outputs, raw.OutputsLength(), tensors),
            )
        if not model.SignatureDefsLength():
            tensors = self.tensors[0]
            given, made = (
                tuple(tensors[i] for i in _indices(graphs[0], side))
                for side in ("Inputs", "Outputs")
            )
            yield FileSignature("", 0, given, made)

    def _buffer(self, model: Any, index: int) -> memoryview | None:
        buffer = model.Buffers(index)
        if buffer.Offset() > 1:
            # Files above 2 GB keep their weights behind the flatbuffer.
            start, size = buffer.Offset(), buffer.Size()
        elif buffer.DataLength():
            start, size = buffer._tab.Vector(buffer._tab.Offset(4)), buffer.DataLength()
        else:
            return None
        if start + size > len(self._content):
            raise ValueError("a buffer ends behind the end of the file")
        return self._content[start : start + size]

    def _tensors(self, graph: Any) -> list[Tensor]:
        tensors = []
        for index in range(graph.TensorsLength()):
            raw = graph.Tensors(index)
            shape = raw.ShapeAsNumpy() if raw.ShapeLength() else ()
            if raw.ShapeSignatureLength():
                shape = raw.ShapeSignatureAsNumpy()
            quantization = raw.Quantization()
            scales: Any = ()
            points: Any = ()
            if quantization is not None and quantization.ScaleLength():
                scales = quantization.ScaleAsNumpy()
                points = quantization.ZeroPointAsNumpy()
                _check_points(self._types[raw.Type()], points)
            single = len(scales) == 1
            info = TensorInfo(
                name=(raw.Name() or b"").decode(),
                shape=tuple(None if size < 0 else int(size) for size in shape),
                dtype=self._types[raw.Type()],
                scale=float(scales[0]) if single else None,
                zero_point=int(points[0]) if single else None,
            )
            constant = self._buffers[raw.Buffer()]
            if constant and raw.Sparsity() is None:
                _check_size(info, len(constant))
            tensors.append(Tensor(info, index, constant, tuple(map(int, points))))
        return tensors

    def _operators(
        self, model: Any, graph: Any, tensors: list[Tensor]
    ) -> Iterator[Operator]:
        for index in range(graph.OperatorsLength()):
            raw = graph.Operators(index)
            code = model.OperatorCodes(raw.OpcodeIndex())
            # Old files keep the code in a byte, new ones in both fields.
            builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            custom = code.CustomCode()
            yield Operator(
                name=custom.decode() if custom else self._codes[builtin],
                custom=bool(custom),
                inputs=tuple(tensors[i] for i in _indices(raw, "Inputs") if i >= 0),
                outputs=tuple(tensors[i] for i in _indices(raw, "Outputs") if i >= 0),
            )

    @property
    def custom_operators(self) -> list[str]:
        """Names of operators that a plain LiteRT runtime does not have."""
        return sorted({op.name for op in self.operators if op.custom})

    def outputs_with_steps(
        self, signature: FileSignature | None = None
    ) -> tuple[TensorInfo, ...]:
        """Returns the outputs, with the step of those that were integers before.

        Args:
            signature: whose outputs; None for those of the first one.
        """
        signature = signature or self.signatures[0]
        sources = {
            op.outputs[0].index: op.inputs[0].info.scale
            for op in self.graphs[signature.graph]
            if op.name == "DEQUANTIZE"
        }
        return tuple(
            replace(t.info, step=t.info.scale or sources.get(t.index))
            for t in signature.outputs
        )

    def census(self) -> tuple[OperatorCount, ...]:
        """Returns how often each operator is used with which dtypes."""
        counts: Counter[tuple] = Counter()
        for op in self.operators:
            weights = sorted({t.info.dtype for t in op.inputs if t.constant})
            counts[op.name, tuple(sorted(_activations(op))), tuple(weights)] += 1
        return tuple(
            OperatorCount(name, activations, weights, count)
            for (name, activations, weights), count in sorted(counts.items())
        )

    def integer_coverage(self) -> float:
        """Returns the share of the work that is done on integers, from 0 to 1.

        The work of an operator are its multiply-accumulates; of one that multiplies
        with no matrix, the values that it puts out. Left out are operators that only
        change the number format, control flow, and arithmetic on shapes and indices
        (int32 and int64). The body of a loop counts once.
        """
        integer = total = 0
        for op in self.operators:
            kinds = _activations(op)
            if op.name in NOT_COMPUTE or kinds <= _INDEX:
                continue
            total += work(op)
            integer += 0 if kinds & _FLOATS else work(op)
        return integer / total if total else 1.0

    def weights(self) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yields each weight tensor (2 or more axes, used by an operator) once.

        Values are as stored; 4-bit values come out as int8, one to an entry.
        """
        seen: set[int] = set()
        for op in self.operators:
            for tensor in op.inputs:
                data = tensor.constant
                if not data or id(data) in seen or len(tensor.info.shape) < 2:
                    continue
                computes = op.name not in NOT_COMPUTE or op.name in _HOLD_WEIGHTS
                if tensor.info.dtype in _INDEX or not computes:
                    continue
                seen.add(id(data))
                values = _values(tensor)
                if values is not None:
                    yield tensor, values


def work(op: Operator) -> int:
    """Returns the multiply-accumulates of an operator, or how many values it makes.

    Sizes that the file leaves free count as 1.
    """
    made = sum(_size(tensor) for tensor in op.outputs)
    if op.name in _KERNEL_AXES:
        position, axis, transposed = _KERNEL_AXES[op.name]
        kernel = op.inputs[position]
        values = _size(op.inputs[2]) if transposed else made
        return values * _size(kernel) // max(kernel.info.shape[axis] or 1, 1)
    if op.name == "BATCH_MATMUL":
        # (m, k) times (k, n) makes (m, n), whichever of them is transposed.
        first, second, product = (
            math.prod(size or 1 for size in tensor.info.shape[-2:])
            for tensor in (*op.inputs[:2], op.outputs[0])
        )
        return made * math.isqrt(first * second // max(product, 1))
    if op.name.endswith("_SEQUENCE_LSTM"):
        matrices = [t for t in op.inputs if t.constant and len(t.info.shape) == 2]
        units = op.outputs[0].info.shape[-1] or 1
        return made // units * sum(_size(matrix) for matrix in matrices)
    return made


def _size(tensor: Tensor) -> int:
    return math.prod(size or 1 for size in tensor.info.shape)


def _check_size(info: TensorInfo, size: int) -> None:
    """Raises `ValueError` if so many bytes are not the values of a tensor."""
    bits = 4 if info.dtype == "int4" else _bits(info.dtype)
    wanted = (math.prod(axis or 0 for axis in info.shape) * bits + 7) // 8
    if bits and size != wanted:
        raise ValueError(f"{info.name!r} has {size} bytes instead of {wanted}")


def _check_points(dtype: str, points: Any) -> None:
    """Raises `ValueError` if a zero point is no value of the integers it belongs to."""
    if dtype in np.sctypeDict and np.issubdtype(np.dtype(dtype), np.integer):
        limits = np.iinfo(dtype)
        if np.min(points) < limits.min or np.max(points) > limits.max:
            raise ValueError(f"the zero point of {dtype} is {points}")


def _bits(dtype: str) -> int:
    """Returns the bits of a value; 0 of strings and other dtypes without a size."""
    return 8 * np.dtype(dtype).itemsize if dtype in np.sctypeDict else 0


def _values(tensor: Tensor) -> np.ndarray | None:
    dtype = tensor.info.dtype
    assert tensor.constant is not None
    if dtype == "int4":
        packed = np.frombuffer(tensor.constant, np.int8)
        # Shifting left and back copies the sign bit of each half byte.
        both = np.stack([np.left_shift(packed, 4) >> 4, packed >> 4], -1).reshape(-1)
        return both[: math.prod(size or 1 for size in tensor.info.shape)]
    if dtype not in np.sctypeDict:
        return None
    return np.frombuffer(tensor.constant, dtype)


def _activations(op: Operator) -> set[str]:
    tensors = [t for t in op.inputs if not t.constant] + list(op.outputs)
    return {t.info.dtype for t in tensors}


def _signature(entry: Any, length: int, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    result = []
    for i in range(length):
        tensor = tensors[entry(i).TensorIndex()]
        info = replace(tensor.info, name=entry(i).Name().decode())
        result.append(replace(tensor, info=info))
    return tuple(result)


def _indices(table: Any, field: str) -> list[int]:
    return [
        int(getattr(table, field)(i)) for i in range(getattr(table, field + "Length")())
    ]


def _names(enum: Any) -> dict[int, str]:
    upper = enum.__name__ == "BuiltinOperator"
    return {
        value: name if upper else name.lower()
        for name, value in vars(enum).items()
        if not name.startswith("_")
    }


def read_schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        from tensorflow.lite.python import schema_py_generated as schema
    return schema


def _damaged(source: Any, why: Any) -> ArtifactError:
    return ArtifactError(
        "The .tflite file is damaged or truncated.",
        received=f"{source} ({why})",
        expected="a whole .tflite file",
        fix="export the model again, or copy the file again",
    )
