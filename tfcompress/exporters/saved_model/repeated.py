"""Parts of a graph that repeat are stored once, as a function that is called.

The steps of a recurrent layer and the blocks of an encoder differ in their numbers and
in what they read. TensorFlow puts functions in place of their calls when a graph is
first run, so that a request costs what it costs without them. A loop would be slower,
and have to look the numbers of each step up.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

# Fewer operations are not worth a function.
_SHORTEST = 12
# What a call takes, and each tensor that it is given or gives, in operations.
_CALL, _TENSOR = 3, 0.4
# Periods that are tried, and how many equal operations to skip to find them.
_PERIODS, _SKIPPED = 24, 4
_FAR = 2**31


@dataclasses.dataclass(frozen=True)
class Run:
    """Operations that repeat.

    Attributes:
        start: the place of the first one.
        period: how many of them repeat.
        count: how often they stand there.
    """

    start: int
    period: int
    count: int

    def place(self, position: int, turn: int) -> int:
        """Returns where the operation of a position stands in a turn."""
        return self.start + turn * self.period + position

    def stop(self) -> int:
        """Returns the place behind the last operation."""
        return self.start + self.count * self.period


class Repeated:
    """The operations of a graph in an order in which equal parts stand in a row.

    Args:
        outputs: the tensors that the graph is for.
    """

    def __init__(self, outputs: Sequence[Any]):
        self.operations = _in_order(outputs)
        self.places = {one.name: at for at, one in enumerate(self.operations)}
        self._tokens = _numbered([_token(one) for one in self.operations])
        self._distances = [
            [
                at - self.places.get(tensor.op.name, at - _FAR)
                for tensor in operation.inputs
            ]
            for at, operation in enumerate(self.operations)
        ]
        self._outputs = {tensor.name for tensor in outputs}
        self._read = [
            [self._readers(tensor) for tensor in one.outputs] for one in self.operations
        ]

    def runs(self) -> list[Run]:
        """Returns the parts that are worth a function; none overlaps another."""
        found: list[Run] = []
        while True:
            best, most = None, float(_SHORTEST)
            for run in self._candidates():
                # A function saves less than what it is stored for.
                if (run.count - 1) * run.period > most:
                    worth = self._worth(run)
                    best, most = (run, worth) if worth > most else (best, most)
            if best is None:
                return found
            found.append(best)
            for at in range(best.start, best.stop()):
                self._tokens[at] = -1 - at

    def _candidates(self) -> Iterator[Run]:
        tokens = np.array(self._tokens)
        for period in self._periods():
            same = np.append(tokens[:-period] == tokens[period:], False)
            alike = self._alike(period)
            ends = np.flatnonzero(~same)
            for begin, end in zip(np.append(-1, ends[:-1]) + 1, ends):
                for start in range(begin, min(begin + period, end - period + 1)):
                    positions = np.arange(end - start) % period
                    wrong = np.flatnonzero(alike[start:end] <= positions)
                    length = wrong[0] if wrong.size else end - start
                    if length >= period:
                        yield Run(start, period, int(length) // period + 1)

    def _alike(self, period: int) -> np.ndarray:
        """Returns up to which position in a turn an operation reads as the next does.

        Two of them differ if they read other operations of their own turns.
        """
        found = []
        for one, other in zip(self._distances, self._distances[period:]):
            differing = [min(pair) for pair in zip(one, other) if pair[0] != pair[1]]
            found.append(min(differing, default=_FAR))
        return np.array(found)

    def _periods(self) -> list[int]:
        places: dict[int, list[int]] = {}
        for at, token in enumerate(self._tokens):
            places.setdefault(token, []).append(at)
        gaps = Counter(
            later - at
            for found in places.values()
            for skipped in range(1, _SKIPPED + 1)
            for at, later in zip(found, found[skipped:])
        )
        periods = [gap for gap in gaps if gap >= _SHORTEST]
        return sorted(periods, key=lambda gap: gaps[gap] * gap)[-_PERIODS:]

    def inside(self, run: Run, position: int, turn: int) -> list[int | None]:
        """Returns the positions that an operation reads; None for what is outside."""
        begin, found = run.place(0, turn), []
        for tensor in self.operations[run.place(position, turn)].inputs:
            at = self.places.get(tensor.op.name, -1)
            found.append(at - begin if at >= begin else None)
        return found

    def _worth(self, run: Run) -> float:
        """Returns how many operations a function saves."""
        outside = {
            tensor.name
            for position in range(run.period)
            for tensor, inside in zip(
                self.operations[run.place(position, 0)].inputs,
                self.inside(run, position, 0),
            )
            if inside is None and tensor.op.type != "Const"
        }
        tensors = len(outside) + len(self.leaving(run))
        return (run.count - 1) * run.period - run.count * (_CALL + _TENSOR * tensors)

    def leaving(self, run: Run) -> list[tuple[int, int]]:
        """Returns the positions, with outputs, that other parts read in some turn."""
        found = set()
        for at in range(run.start, run.stop()):
            turn, position = divmod(at - run.start, run.period)
            begin, end = run.place(0, turn), run.place(0, turn + 1)
            for number, (first, last) in enumerate(self._read[at]):
                if first < begin or last >= end:
                    found.add((position, number))
        return sorted(found)

    def _readers(self, tensor: Any) -> tuple[int, int]:
        """Returns the places of the first and the last operation that read a tensor."""
        if tensor.name in self._outputs:
            return -1, _FAR
        read = [self.places.get(one.name, -1) for one in tensor.consumers()]
        return min(read, default=_FAR), max(read, default=-1)


def _in_order(outputs: Sequence[Any]) -> list[Any]:
    """Returns what can stand in a function, each behind the operations it reads."""
    found: dict[str, Any] = {}
    waiting = [(tensor.op, False) for tensor in outputs]
    while waiting:
        operation, entered = waiting.pop()
        if operation.name in found:
            continue
        if entered:
            found[operation.name] = operation
            continue
        waiting.append((operation, True))
        waiting += [(tensor.op, False) for tensor in operation.inputs]
    return [one for one in found.values() if _is_function(one)]


def _is_function(operation: Any) -> bool:
    plain = not operation.op_def.is_stateful and not operation.control_inputs
    kinds = {tensor.dtype.name for tensor in (*operation.inputs, *operation.outputs)}
    plain = plain and not kinds & {"resource", "variant", "string"}
    return plain and bool(operation.inputs)


def _token(operation: Any) -> tuple:
    """Returns what equal operations have in common."""
    attributes = operation.node_def.attr
    return (
        operation.type,
        tuple(
            (name, attributes[name].SerializeToString(deterministic=True))
            for name in sorted(attributes)
        ),
        tuple(str(tensor.shape) for tensor in operation.outputs),
        tuple(
            (tensor.op.type == "Const", tensor.dtype, str(tensor.shape))
            for tensor in operation.inputs
        ),
    )


def _numbered(tokens: list[tuple]) -> list[int]:
    numbers: dict[tuple, int] = {}
    return [numbers.setdefault(token, len(numbers)) for token in tokens]
