"""LSTMs as LiteRT's one operator for them, with 8-bit kernels and a 16-bit cell.

The operator has one scale for the kernel of each gate, sums of gates in steps of 1/4096
up to 8, and a cell's state whose step is a power of two. Its states are variables that
outlive a call, so here two operators in front of it set them to zero.

Source: `EvalInteger8x8_16` in TensorFlow Lite's `lstm_eval.cc`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfcompress.exporters.tflite.flatbuffer import read_schema
from tfcompress.exporters.tflite.lstm_steps import UnrolledLSTM, unrolled_lstms
from tfcompress.exporters.tflite.rewriting import (
    integers,
    new_constant,
    new_operator,
    store,
)

#: LiteRT's operator.
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
# Where the gates stand in a layer's kernel, in the operator's order: input, forget,
# candidate, output.
_GATES = (0, 1, 3, 2)
# Powers of two that may be the step of the cell's state: of others there is no tanh.
_LEAST_STEP, _MOST_STEP = -15, -9
_LARGEST = 127


def fuse_lstms(model: Any) -> None:
    """Puts UNIDIRECTIONAL_SEQUENCE_LSTM in the place of the steps of LSTMs.

    Args:
        model: a .tflite file taken apart, whose slices are not yet splits.
    """
    for graph in model.subgraphs:
        operators: list = list(graph.operators)
        for found in unrolled_lstms(model, graph):
            if not _fits(graph, found):
                continue
            place = min(found.positions)
            made = _Fused(model, graph, found).operators()
            for position in found.positions:
                operators[position] = []
            operators[place] = made
        graph.operators = [
            one
            for entry in operators
            for one in (entry if isinstance(entry, list) else [entry])
        ]


def _fits(graph: Any, found: UnrolledLSTM) -> bool:
    """Returns whether the operator has the numbers that a layer has."""
    ends = graph.tensors[int(found.inputs.inputs[0])], graph.tensors[found.hidden[0]]
    small = all(one.type == read_schema().TensorType.INT8 for one in ends)
    grids = {_grid(graph.tensors[index]) for index in found.hidden}
    return small and len(grids) == 1 and _cell_step(graph, found) <= _MOST_STEP


def _cell_step(graph: Any, found: UnrolledLSTM) -> int:
    """Returns the power of two with which 16 bits hold all states of the cell."""
    largest = 0.0
    for index in found.cells:
        scale, point = _grid(graph.tensors[index])
        largest = max(largest, scale * max(128 + point, _LARGEST - point))
    return max(math.ceil(math.log2(largest)) + _LEAST_STEP, _LEAST_STEP)


def _grid(tensor: Any) -> tuple[float, int]:
    quantization = tensor.quantization
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def _integers_of(model: Any, kernel: Any) -> np.ndarray:
    """Returns the integers of a kernel, of which two may share a byte."""
    values = integers(model, kernel, np.int8)
    if kernel.type == read_schema().TensorType.INT4:
        # Shifting left and back copies the sign bit of each half byte.
        both = [np.left_shift(values, 4) >> 4, values >> 4]
        values = np.stack(both, -1).reshape(-1)[: math.prod(map(int, kernel.shape))]
    return values.reshape(kernel.shape)


def _one_scale(values: np.ndarray, scales: np.ndarray) -> tuple[np.float32, np.ndarray]:
    """Returns one scale for the channels of a kernel, and theirs as multiples of it.

    Args:
        values: the integers, channels first.
        scales: one for each channel.
    """
    largest = (np.abs(values).max(axis=1) * scales).max() / _LARGEST
    if not np.ptp(scales) or not largest:
        return np.float32(scales.max()), np.ones(len(scales))
    return np.float32(largest), scales / float(np.float32(largest))


class _Fused:
    """The operators that compute one layer.

    Args:
        model: a .tflite file taken apart.
        graph: the graph that they are for.
        found: the steps in whose place they are.
    """

    def __init__(self, model: Any, graph: Any, found: UnrolledLSTM):
        self.model, self.graph, self.found = model, graph, found
        self.types = read_schema().TensorType
        self.source = int(found.inputs.inputs[0])
        given = graph.tensors[int(found.inputs.outputs[0])]
        state = graph.tensors[found.hidden[0]]
        self.batch, self.units = map(int, state.shape)
        self.length = len(found.hidden)
        self.width = int(graph.tensors[self.source].shape[-1])
        self.name = bytes(given.name or b"").decode().split("/")[0]

    def operators(self) -> list[Any]:
        """Returns them, in their order."""
        found, shape = self.found, [self.batch, self.length, self.width]
        source, before, behind = self.source, [], []
        if list(map(int, self.graph.tensors[source].shape)) != shape:
            before.append(self._reshape(source, shape))
            source = before[-1].outputs[0]
        if found.backwards:
            turned = self._like(source, shape)
            before.append(self._reverse(source, turned))
            source = turned
        # In the order of computation, which may be that of the stack.
        shape = [self.batch, self.length, self.units]
        result = self._like(found.hidden[0], shape)
        if found.sequence is not None:
            stack = int(found.sequence.outputs[0])
            if found.flipped:
                behind.append(self._reverse(result, stack))
            else:
                result = stack
        if found.last:
            behind.append(self._last(result, found.hidden[-1]))
        states = self._states()
        cleared = [self._cleared(index) for index in states]
        return [*before, *cleared, self._lstm(source, states, result), *behind]

    def _lstm(self, source: int, states: list[int], result: int) -> Any:
        schema = read_schema()
        kernels, biases = self._gates(self.found.inputs)
        recurrent, _ = self._gates(self.found.recurrent)
        none = [-1]
        read = [source, *kernels, *recurrent, *none * 3, *biases, *none * 2, *states]
        options = schema.UnidirectionalSequenceLSTMOptionsT()
        options.fusedActivationFunction = schema.ActivationFunctionType.TANH
        made = new_operator(
            self.model,
            LSTM,
            1,
            [*read, *none * 4],
            [result],
            options,
        )
        # The kernel asks for five; without layer normalization and projection it reads
        # the last one only, the step of the state. tflite-micro wants them empty.
        sums = [self._tensor("sum", [0], self.types.INT16, 2.0**-12)] * 4
        state = _grid(self.graph.tensors[self.found.hidden[0]])
        made.intermediates = [
            *sums,
            self._tensor("state", [0], self.types.INT8, *state),
        ]
        return made

    def _gates(self, product: Any) -> tuple[list[int], list[int]]:
        """Returns kernels and biases of the four gates of a matrix product.

        A gate has one scale for all of its channels. Channels that share one keep their
        integers, others are rounded to that of the largest weight.
        """
        tensors, model = self.graph.tensors, self.model
        kernel = tensors[int(product.inputs[1])]
        values = _integers_of(model, kernel)
        scales = np.asarray(kernel.quantization.scale, "float64")
        scales = np.broadcast_to(scales, len(values))
        added = np.zeros(len(values))
        if len(product.inputs) > 2 and int(product.inputs[2]) >= 0:
            added = integers(model, tensors[int(product.inputs[2])], np.int32)
        step, _ = _grid(tensors[int(product.inputs[0])])
        kernels, biases = [], []
        for number, gate in enumerate(_GATES):
            rows = slice(gate * self.units, (gate + 1) * self.units)
            one, factor = _one_scale(values[rows], scales[rows])
            whole = np.round(values[rows] * factor[:, None]).astype(np.int8)
            bias = np.round(added[rows] * factor).astype(np.int32)
            name, shape = f"kernel_{number}", whole.shape
            kernels.append(self._tensor(name, shape, self.types.INT8, one, 0, whole))
            name, scale = f"bias_{number}", np.float32(step) * one
            biases.append(
                self._tensor(name, bias.shape, self.types.INT32, scale, 0, bias)
            )
        return kernels, biases

    def _states(self) -> list[int]:
        shape, types = [self.batch, self.units], self.types
        state = _grid(self.graph.tensors[self.found.hidden[0]])
        cell = 2.0 ** _cell_step(self.graph, self.found)
        made = [
            self._tensor("state_variable", shape, types.INT8, *state),
            self._tensor("cell_variable", shape, types.INT16, cell),
        ]
        for index in made:
            self.graph.tensors[index].isVariable = True
        return made

    def _cleared(self, variable: int) -> Any:
        """Returns the operator that sets a state to zero.

        PACK, because runtimes run it in each call, though what it reads is constant.
        """
        tensor, schema = self.graph.tensors[variable], read_schema()
        small = tensor.type == self.types.INT8
        _, point = grid = _grid(tensor)
        zeros = np.full(self.units, point, np.int8 if small else np.int16)
        read = self._tensor("zeros", zeros.shape, tensor.type, grid[0], point, zeros)
        options = schema.PackOptionsT()
        options.valuesCount = self.batch
        version = 2 if small else 3
        return new_operator(
            self.model, "PACK", version, [read] * self.batch, [variable], options
        )

    def _last(self, sequence: int, result: int) -> Any:
        options = read_schema().StridedSliceOptionsT()
        options.beginMask = options.endMask = 0b101
        options.shrinkAxisMask = 0b010
        ends = [0, self.length - 1, 0], [0, self.length, 0], [1, 1, 1]
        read = [sequence, *(self._constant(one) for one in ends)]
        return new_operator(self.model, "STRIDED_SLICE", 2, read, [result], options)

    def _reverse(self, source: int, result: int) -> Any:
        """Returns the operator that turns a sequence around.

        GATHER, because tflite-micro has no REVERSE_V2.
        """
        options = read_schema().GatherOptionsT()
        options.axis = 1
        read = [source, self._constant([*range(self.length)][::-1])]
        return new_operator(self.model, "GATHER", 2, read, [result], options)

    def _reshape(self, source: int, shape: list[int]) -> Any:
        options = read_schema().ReshapeOptionsT()
        options.newShape = shape
        read, made = [source, self._constant(shape)], self._like(source, shape)
        return new_operator(self.model, "RESHAPE", 1, read, [made], options)

    def _constant(self, values: list[int]) -> int:
        array = np.array(values, np.int32)
        return new_constant(self.model, self.graph, array, f"{self.name}/places")

    def _like(self, index: int, shape: list[int]) -> int:
        """Returns a new tensor with the grid of another one."""
        grid = _grid(self.graph.tensors[index])
        return self._tensor("sequence", shape, self.types.INT8, *grid)

    def _tensor(
        self,
        name: str,
        shape: Any,
        kind: int,
        scale: Any,
        point: int = 0,
        values: np.ndarray | None = None,
    ) -> int:
        """Adds a tensor to the graph; returns its number."""
        schema = read_schema()
        tensor, quantization = schema.TensorT(), schema.QuantizationParametersT()
        tensor.name, tensor.shape = f"{self.name}/{name}", list(map(int, shape))
        tensor.type, tensor.buffer, tensor.hasRank = kind, 0, True
        quantization.scale, quantization.zeroPoint = [float(scale)], [point]
        tensor.quantization = quantization
        if values is not None:
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(schema.BufferT())
            store(self.model, tensor, values)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1
