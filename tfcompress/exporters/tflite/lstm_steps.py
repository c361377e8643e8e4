"""The unrolled LSTMs of a .tflite file: which operators are the steps of which layer.

A finalized model has one step after the other, and so has the file that the converter
makes of it. What belongs to a layer follows from what reads what, not from names.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress.exporters.tflite.rewriting import calls, integers, shape_of
from tfcompress.exporters.tflite.splits import slices_of

# Operators with one output that follows from what they read, in whatever order.
_PLAIN = frozenset({"LOGISTIC", "TANH", "MUL", "ADD"})


@dataclasses.dataclass(frozen=True)
class UnrolledLSTM:
    """The steps of one layer.

    Attributes:
        inputs: the operator that multiplies the inputs of all steps with the kernel.
        recurrent: the one that multiplies the first state with the recurrent kernel.
        hidden: the tensors of the states, in the order of computation.
        cells: those of the cell's states.
        backwards: whether the first step reads the end of the sequence.
        sequence: the operator that stacks the states; None if only the last is read.
        flipped: whether it stacks them from the last to the first.
        last: whether the last state is read by itself.
        positions: of all of its operators, among those of the graph.
    """

    inputs: Any
    recurrent: Any
    hidden: list[int]
    cells: list[int]
    backwards: bool
    sequence: Any
    flipped: bool
    last: bool
    positions: frozenset[int]


def unrolled_lstms(model: Any, graph: Any) -> Iterator[UnrolledLSTM]:
    """Yields the LSTMs of a graph whose steps are all there, and nobody else's.

    Those with a mask, an initial state, a cell state that others read or activations
    other than sigmoid and tanh are none; nor are those in 16 bits.

    Args:
        model: a .tflite file taken apart, whose slices are not yet splits.
        graph: one of its graphs.
    """
    reading = _Reading(model, graph)
    for tensor, parts in reading.steps.items():
        pieces = [result for _, result in sorted(parts)]
        length, width = map(int, graph.tensors[tensor].shape[1:])
        if len(pieces) != length or length < 2 or width % 4:
            continue
        for backwards in (False, True):
            order = pieces[::-1] if backwards else pieces
            try:
                found = reading.lstm(tensor, order, width // 4, backwards)
            except KeyError:  # an operator that a step has is not there
                continue
            if found is not None:
                yield found
                break


class _Reading:
    """What makes and what reads the tensors of a graph."""

    def __init__(self, model: Any, graph: Any):
        self.model, self.graph = model, graph
        self.names: list[str] = []
        self.makers: dict[int, int] = {}
        self.readers: dict[int, set[int]] = defaultdict(set)
        self.made: dict[tuple, int] = {}
        self.products: dict[int, list[int]] = defaultdict(list)
        for position, (name, operator, _) in enumerate(calls(model, graph)):
            self.names.append(name)
            self.makers |= {int(made): position for made in operator.outputs}
            for index in operator.inputs:
                self.readers[int(index)].add(position)
            plain = not getattr(operator.builtinOptions, "fusedActivationFunction", 0)
            if name in _PLAIN and plain:
                read = frozenset(map(int, operator.inputs))
                self.made[name, read] = int(operator.outputs[0])
            elif name == "FULLY_CONNECTED" and plain:
                self.products[int(operator.inputs[0])].append(position)
        self.ends = {*map(int, graph.inputs), *map(int, graph.outputs)}
        # Parts of vectors, and the steps of sequences.
        self.parts: dict[tuple[int, int, int], int] = {}
        self.steps: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for part in slices_of(model, graph):
            axes = len(shape_of(graph.tensors[part.tensor]))
            if (axes, part.axis, part.drops) == (2, 1, False):
                self.parts[part.tensor, part.start, part.stop] = part.result
            elif (axes, part.axis, part.drops) == (3, 1, True):
                self.steps[part.tensor].append((part.start, part.result))

    def lstm(
        self, given: int, pieces: list[int], units: int, backwards: bool
    ) -> UnrolledLSTM | None:
        """Returns the layer that reads the steps of a tensor in this order.

        Args:
            given: what the kernel makes of the inputs of all steps.
            pieces: its steps.
            units: how many the layer has.
            backwards: whether the order is not that of time.

        Raises:
            KeyError: if it computes something else.
        """
        hidden: list[int] = []
        cells: list[int] = []
        products: list[Any] = []
        makers = self._makers_of(given)
        own = set(makers)
        for piece in pieces:
            total = piece
            if hidden:
                product, total = self._sum(hidden[-1], piece)
                products.append(product)
            state, cell, inside = self._step(total, units, cells[-1] if cells else None)
            own |= {self.makers[index] for index in (piece, total, *inside)}
            own |= {self.makers[state], self.makers[cell]}
            hidden.append(state)
            cells.append(cell)
        own |= {self.makers[int(product.outputs[0])] for product in products}
        kernels = {self._kernel(product) for product in products}
        stacks = {one for one in self.readers[hidden[0]] if self.names[one] == "PACK"}
        if len(kernels) > 1 or not self._alone(own, hidden, stacks):
            return None
        stack = self.graph.operators[min(stacks)] if stacks else None
        stacked = hidden if stack is None else list(map(int, stack.inputs))
        flipped = stacked == hidden[::-1]
        if stacked != hidden and not flipped:
            return None
        others = self.readers[hidden[-1]] - own - stacks
        return UnrolledLSTM(
            inputs=self.graph.operators[makers[0]],
            recurrent=products[0],
            hidden=hidden,
            cells=cells,
            backwards=backwards,
            sequence=stack,
            flipped=flipped,
            last=bool(others) or hidden[-1] in self.ends,
            positions=frozenset(own | stacks),
        )

    def _makers_of(self, given: int) -> list[int]:
        """Returns the product that makes a tensor, and reshapings behind it.

        Raises:
            KeyError: if something else makes it.
        """
        position = self.makers[given]
        if self.names[position] == "RESHAPE":
            source = int(self.graph.operators[position].inputs[0])
            return [*self._makers_of(source), position]
        if position not in self.products[int(self.graph.operators[position].inputs[0])]:
            raise KeyError(given)
        return [position]

    def _sum(self, state: int, piece: int) -> tuple[Any, int]:
        """Returns what multiplies a state, and its sum with what the inputs give."""
        for position in self.products[state]:
            product = self.graph.operators[position]
            found = self.made.get(("ADD", frozenset({piece, int(product.outputs[0])})))
            without_bias = len(product.inputs) < 3 or int(product.inputs[2]) < 0
            if found is not None and without_bias:
                return product, found
        raise KeyError(state)

    def _step(
        self, total: int, units: int, before: int | None
    ) -> tuple[int, int, list[int]]:
        """Returns the states that follow from a sum, and all other tensors between.

        The columns are those of the input, forget and output gate, and the candidate.
        """
        both, last = (
            self.parts[total, 0, 3 * units],
            self.parts[total, 3 * units, 4 * units],
        )
        gates = self.made["LOGISTIC", frozenset({both})]
        candidate = self.made["TANH", frozenset({last})]
        first, third = (
            self.parts[gates, 0, units],
            self.parts[gates, 2 * units, 3 * units],
        )
        cell = self.made["MUL", frozenset({first, candidate})]
        inside = [both, last, gates, candidate, first, third]
        if before is not None:
            forget = self.parts[gates, units, 2 * units]
            kept = self.made["MUL", frozenset({forget, before})]
            inside += [forget, kept, cell]
            cell = self.made["ADD", frozenset({kept, cell})]
        shown = self.made["TANH", frozenset({cell})]
        return self.made["MUL", frozenset({third, shown})], cell, [*inside, shown]

    def _kernel(self, product: Any) -> tuple[bytes, tuple]:
        """Returns what a kernel holds: each step has a copy of its own."""
        kernel = self.graph.tensors[int(product.inputs[1])]
        values = integers(self.model, kernel, np.int8)
        return values.tobytes(), tuple(kernel.quantization.scale)

    def _alone(self, own: set[int], hidden: list[int], stacks: set[int]) -> bool:
        """Returns whether only states leave the operators, and how a layer's do.

        Args:
            own: positions of the operators of all steps.
            hidden: the states; all but the last one leave to the stack only.
            stacks: the position of what stacks them, if something does.
        """
        if len(stacks) > 1:
            return False
        for position in own:
            for made in map(int, self.graph.operators[position].outputs):
                allowed = own | stacks if made in hidden else own
                if made == hidden[-1]:
                    continue
                if made in self.ends or not self.readers[made] <= allowed:
                    return False
        return True
