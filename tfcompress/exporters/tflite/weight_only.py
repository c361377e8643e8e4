"""Kernels of weight-only models as integers in .tflite files.

The converter is shown a float model. Its kernels are integers times a step, which are
found again of their values; what flows stays float. Kernels of the runtime then round
what they are given to 8 bits as they run (one step for each row), and multiply
integers; or the kernel is made floats again before it is multiplied, which is exact.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.exporters.grids import Grid, grid_of
from tfcompress.exporters.tflite.assembling import put_together
from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.int4 import half_bytes
from tfcompress.exporters.tflite.rewriting import (
    calls,
    integers,
    new_constant,
    new_operator,
    shape_of,
    store,
    take_apart,
)
from tfcompress.exporters.weights_alone import matrices_of, rounded_kernels
from tfcompress.quantization.weight_only import is_weight_only

# Where the kernel is, and the axis of its channels.
_KERNELS = {
    "FULLY_CONNECTED": (1, 0),
    "CONV_2D": (1, 0),
    "DEPTHWISE_CONV_2D": (1, 3),
    "TRANSPOSE_CONV": (1, 0),
    "GATHER": (0, 0),
}
# XNNPACK rounds what these are given as it runs. Others are faster in float, and exact.
_ROUND_INPUTS = ("FULLY_CONNECTED", "CONV_2D")
# Since which version kernels take integers of 4 bits, and steps of blocks.
_VERSIONS = {"FULLY_CONNECTED": 12, "CONV_2D": 7, "EMBEDDING_LOOKUP": 4}
# How far products are off in float32, as a share of the largest.
_SAME = 1e-6


def with_integer_weights(
    content: bytes, model: keras.Model, compute: str, packed: frozenset[str]
) -> bytes:
    """Returns the file of a weight-only model with its kernels as integers.

    Args:
        content: what the converter has made of it.
        model: the model.
        compute: "integer" or "float", as of `TFLiteExporter`.
        packed: operators whose kernels may be half bytes.
    """
    file = take_apart(content)
    known = matrices_of(model)
    stored = use_integer_weights(file, known, compute == "float", packed)
    kernels = {id(v): int(np.prod(v.shape)) for _, v in rounded_kernels(model)}
    left = sum(kernels.values()) - stored
    if left > 0:
        warn(
            f"{left:,} of {sum(kernels.values()):,} weights of the layers that were "
            "rounded are floats in the file: the converter has put their kernels in "
            "another form. The numbers are the same."
        )
    return put_together(file)


def check_alone(model: keras.Model, others: tuple) -> None:
    """Raises if a weight-only model is to be rounded in another way besides.

    Args:
        model: any model.
        others: calibration data and options of the export that round kernels.
    """
    given = [_said(one) for one in others if one is not None and one is not False]
    if given and is_weight_only(model):
        raise InvalidArgumentError(
            "The kernels of the model are integers already.",
            received=", ".join(given),
            expected="neither calibration data nor `quantize`, `sparse` or `smallest`",
            fix="leave them out, or export the model that was quantized",
        )


def _said(option: Any) -> str:
    return str(option) if isinstance(option, str | bool) else "calibration data"


def use_integer_weights(
    model: Any, known: list[np.ndarray], in_float: bool, packed: frozenset[str]
) -> int:
    """Stores kernels on a grid as integers; returns how many weights.

    Args:
        model: a .tflite file taken apart.
        known: the kernels that are on a grid, (channels, inputs).
        in_float: whether all layers compute in float.
        packed: operators whose kernels may be half bytes.
    """
    stored = 0
    for graph in model.subgraphs:
        operators: list[Any] = []
        rewriting = _Rewriting(model, graph, known, in_float, packed)
        for name, operator, tensors in list(calls(model, graph)):
            added = rewriting.of(name, operator, tensors)
            stored += added.weights
            operators += added.operators
        graph.operators = operators
    return stored


class _Added:
    """Operators in the place of one, and how many weights they hold as integers."""

    def __init__(self, operators: list[Any], weights: int = 0):
        self.operators, self.weights = operators, weights


class _Rewriting:
    """What becomes of the operators of a graph."""

    def __init__(
        self,
        model: Any,
        graph: Any,
        known: list[np.ndarray],
        in_float: bool,
        packed: frozenset[str],
    ) -> None:
        self.model, self.graph, self.known = model, graph, known
        self.in_float, self.packed = in_float, packed
        # Tensors times factors, by both.
        self.products: dict[tuple[int, bytes], int] = {}

    def of(self, name: str, operator: Any, tensors: list) -> _Added:
        """Returns the operators that take the place of one."""
        place, axis = _KERNELS.get(name, (0, 0))
        kernel = tensors[place] if name in _KERNELS else None
        if kernel is None or kernel.type != read_schema().TensorType.FLOAT32:
            return _Added([operator])
        values = integers(self.model, kernel, np.float32)
        if not values.size:
            return _Added([operator])
        values = values.reshape(kernel.shape)
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        pointwise = _is_pointwise(name, operator, values)
        matrix = name == "FULLY_CONNECTED" or pointwise
        grid = grid_of(rows, blocks=matrix or name == "GATHER")
        before: list[Any] = []
        if grid is None and matrix:
            grid, before = self._without_factors(operator, rows)
        if grid is None:
            return _Added([operator])
        if name == "GATHER":
            return self._lookup(operator, tensors, grid)
        if pointwise:
            name, kernel = "FULLY_CONNECTED", self._as_matrix(kernel)
            operator = self._fully_connected(operator)
        half = grid.half_bytes and name in self.packed
        half |= grid.steps.shape[1] > 1  # there are no blocks of bytes
        if not self.in_float and name in _ROUND_INPUTS:
            self._store(kernel, grid, axis, half)
            self._require(name, operator)
            return _Added([*before, operator], grid.integers.size)
        made = self._in_float(operator, place, kernel, grid, axis, half)
        return _Added([*before, *made, operator], grid.integers.size)

    def _without_factors(
        self, operator: Any, rows: np.ndarray
    ) -> tuple[Grid | None, list[Any]]:
        """Returns the grid of a kernel whose inputs were scaled, and what scales them.

        The converter multiplies kernels with the factors of their inputs, such as those
        of an RMSNormalization. Here the inputs are multiplied with them again.
        """
        for kernel in self.known:
            factors = _factors(rows, kernel) if rows.shape == kernel.shape else None
            grid = grid_of(kernel) if factors is not None else None
            if factors is not None and grid is not None:
                return grid, self._scaled_inputs(operator, factors)
        return None, []

    def _scaled_inputs(self, operator: Any, factors: np.ndarray) -> list[Any]:
        source, made = int(operator.inputs[0]), []
        key = source, factors.tobytes()
        if key not in self.products:
            wanted = self._constant(factors, "FLOAT32", b"factors")
            like = self.graph.tensors[source]
            scaled = self._tensor(like, "FLOAT32", b"_scaled", shape_of(like))
            options = read_schema().MulOptionsT()
            made = [self._operator("MUL", [source, wanted], [scaled], options)]
            self.products[key] = scaled
        operator.inputs = [self.products[key], *list(operator.inputs)[1:]]
        return made

    def _as_matrix(self, kernel: Any) -> Any:
        kernel.shape = [int(kernel.shape[0]), int(kernel.shape[3])]
        kernel.shapeSignature = None
        return kernel

    def _fully_connected(self, convolution: Any) -> Any:
        """Returns the product of matrices that a convolution of single pixels is."""
        options = read_schema().FullyConnectedOptionsT()
        options.keepNumDims = True
        options.fusedActivationFunction = (
            convolution.builtinOptions.fusedActivationFunction
        )
        inputs, outputs = list(convolution.inputs), list(convolution.outputs)
        return self._operator("FULLY_CONNECTED", inputs, outputs, options)

    def _require(self, name: str, operator: Any) -> None:
        """Says of an operator since which version of its kernel it can run."""
        options = operator.builtinOptions
        if name == "FULLY_CONNECTED":
            options.asymmetricQuantizeInputs = True
        made = self._operator(name, operator.inputs, operator.outputs, options)
        operator.opcodeIndex = made.opcodeIndex

    def _operator(self, name: str, inputs: Any, outputs: Any, options: Any) -> Any:
        version = _VERSIONS.get(name, 1)
        return new_operator(self.model, name, version, inputs, outputs, options)

    def _store(self, tensor: Any, grid: Grid, axis: int, half: bool) -> None:
        """Puts integers into a tensor, in the order of its axes."""
        schema = read_schema()
        moved = [n for a, n in enumerate(tensor.shape) if a != axis]
        values = grid.integers.reshape(-1, *moved)
        values = np.ascontiguousarray(np.moveaxis(values, 0, axis))
        store(self.model, tensor, half_bytes(values) if half else values)
        types = schema.TensorType
        tensor.type = types.INT4 if half else types.INT8
        found = schema.QuantizationParametersT()
        if grid.steps.shape[1] == 1:
            steps = grid.steps.ravel()
            found.scale, found.quantizedDimension = steps, axis
            found.zeroPoint = np.zeros(len(steps), np.int64)
        else:
            found.detailsType = schema.QuantizationDetails.BlockwiseQuantization
            found.details = schema.BlockwiseQuantizationT()
            found.details.scales = self._constant(
                grid.steps.astype(np.float16), "FLOAT16", tensor.name + b"_steps"
            )
            found.details.zeroPoints, found.details.blockSize = -1, grid.block_size
        tensor.quantization = found

    def _constant(self, values: np.ndarray, kind: str, name: bytes) -> int:
        index = new_constant(self.model, self.graph, values, name.decode())
        tensor = self.graph.tensors[index]
        tensor.type = getattr(read_schema().TensorType, kind)
        return index

    def _tensor(self, like: Any, kind: str, name: bytes, shape: Any = None) -> int:
        """Adds a tensor that is computed; returns its number."""
        schema = read_schema()
        tensor = schema.TensorT()
        tensor.shape = list(map(int, like.shape if shape is None else shape))
        tensor.name, tensor.hasRank, tensor.buffer = like.name + name, True, 0
        tensor.type = getattr(schema.TensorType, kind)
        free = [-1 if size < 0 else int(size) for size in tensor.shape]
        if -1 in free:
            tensor.shapeSignature = free
            tensor.shape = [max(size, 1) for size in free]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _in_float(
        self, operator: Any, place: int, kernel: Any, grid: Grid, axis: int, half: bool
    ) -> list[Any]:
        """Returns what makes a kernel floats again, and lets its operator read them."""
        schema, shape = read_schema(), list(map(int, kernel.shape))
        made = []
        if grid.steps.shape[1] > 1:
            # DEQUANTIZE takes a step for each row, and none for blocks: so blocks
            # become rows, and are a matrix again behind it.
            size = grid.block_size
            grid = Grid(
                grid.integers.reshape(-1, size), grid.steps.reshape(-1, 1), half
            )
            kernel.shape, kernel.shapeSignature = list(grid.integers.shape), None
        self._store(kernel, grid, axis, half)
        number = int(operator.inputs[place])
        floats = self._tensor(kernel, "FLOAT32", b"_floats")
        options = schema.DequantizeOptionsT()
        version = 6 if half else 5
        made.append(
            new_operator(self.model, "DEQUANTIZE", version, [number], [floats], options)
        )
        if list(kernel.shape) != shape:
            wanted = self._constant(np.array(shape, np.int32), "INT32", b"shape")
            whole = self._tensor(kernel, "FLOAT32", b"_matrix", shape)
            made.append(self._reshape(floats, wanted, whole, shape))
            floats = whole
        operator.inputs = list(operator.inputs)
        operator.inputs[place] = floats
        return made

    def _reshape(self, source: int, wanted: int, made: int, shape: list[int]) -> Any:
        options = read_schema().ReshapeOptionsT()
        options.newShape = shape
        return self._operator("RESHAPE", [source, wanted], [made], options)

    def _lookup(self, operator: Any, tensors: list, grid: Grid) -> _Added:
        """Returns a lookup of rows of integers, which takes a row of numbers."""
        table, ids = tensors
        made = self.graph.tensors[operator.outputs[0]]
        shape = list(shape_of(made))
        int32 = read_schema().TensorType.INT32
        options = operator.builtinOptions
        first = options.axis == 0 and not options.batchDims
        if not first or ids.type != int32 or shape.count(-1) > 1:
            return _Added([operator])
        whole = grid.integers.shape[1] % 2 == 0
        number, index = map(int, operator.inputs)
        self._store(table, grid, 0, grid.half_bytes and whole)
        row, width = self._tensor(ids, "INT32", b"_row", [-1]), grid.integers.shape[1]
        found = self._tensor(made, "FLOAT32", b"_rows", [-1, width])
        flat = self._constant(np.array([-1], np.int32), "INT32", b"row")
        wanted = self._constant(np.array(shape, np.int32), "INT32", b"shape")
        outputs = [int(operator.outputs[0])]
        lookup = self._operator("EMBEDDING_LOOKUP", [row, number], [found], None)
        return _Added(
            [
                self._reshape(index, flat, row, [-1]),
                lookup,
                self._reshape(found, wanted, outputs[0], shape),
            ],
            grid.integers.size,
        )


def _factors(rows: np.ndarray, kernel: np.ndarray) -> np.ndarray | None:
    """Returns what each input of a kernel was multiplied with to give `rows`."""
    squares = np.sum(kernel**2, axis=0)
    factors = np.sum(rows * kernel, axis=0) / np.where(squares > 0, squares, 1.0)
    factors = np.where(squares > 0, factors, 1.0)
    off = np.abs(rows - kernel * factors).max(initial=0.0)
    same = off <= _SAME * np.abs(rows).max(initial=0.0)
    return factors.astype("float32") if same else None


def _is_pointwise(name: str, operator: Any, kernel: np.ndarray) -> bool:
    """Returns whether a convolution multiplies each pixel with a matrix."""
    if name != "CONV_2D" or kernel.shape[1:3] != (1, 1):
        return False
    options = operator.builtinOptions
    return options.strideH == 1 and options.strideW == 1
