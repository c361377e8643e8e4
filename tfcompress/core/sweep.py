"""One walk through a model that stops before its layers, which may then change."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.data import Inputs
from tfcompress.core.execution import Execution, Keeping, Values
from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.core.ownership import scratch
from tfcompress.core.recorder import InputRecorder
from tfcompress.core.samples import states_of
from tfcompress.core.select import walk

# In bytes, of what has arrived at a layer in all batches. More than that waits on disk.
_IN_MEMORY = 2**28

_Held = Callable[[], Values]


class Sweep:
    """Shows what flows into the layers of a model, which change on the way.

    When to use: for what is done layer by layer, each on the inputs that it has by the
    time the layers before it are done. A model that is run from its inputs for each of
    its layers costs the square of its depth. Here what has arrived at the layer is
    kept, of every batch, and no operation runs again that will not change.

    Layers that are called again behind others that are still to change are an
    exception: what lies between their calls runs for them, and later once more.

    Args:
        model: the model, whose layers keep their state.
        graph: its traced graph.
        data: what it runs on.
        layers: those that will be asked for, in that order: operations of the graph, or
            layers inside of these.
        operation_of: what is called in place of a node's operation; by default that.
    """

    def __init__(
        self,
        model: keras.Model,
        graph: Graph,
        data: Inputs,
        layers: Sequence[keras.Layer] = (),
        operation_of: Callable[[Node], Callable] = lambda node: node.operation,
    ):
        self._execution = Execution(graph, operation_of)
        self.data, self._layers = data, list(layers)
        self._positions = _positions(graph, self._layers)
        self._states = [s for kept in states_of(model).values() for s in kept]
        self._reached = 0
        self._held: list[_Held] | None = None  # before the first batch has been read
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._held = None
        self._stack.close()

    def inputs_of(self, layer: keras.Layer) -> Iterator[list]:
        """Yields, batch by batch, what each call of a layer is given.

        It can be asked for again, until a later one is.
        """
        ahead = self._layers[self._layers.index(layer) :]
        calls = self._positions[id(layer)]
        self._advance(min(self._positions[id(one)][0] for one in ahead))
        nodes, needed = self._execution.nodes, self._needed(calls)
        alone = all(nodes[position].operation is layer for position in calls)
        for held in self._held or ():
            found: list[Any] = []
            # Recorded before it runs, so its last call is none too many.
            enough = len(calls) if alone else None
            with InputRecorder(layer, found.append, enough) as recorder:
                recorder.run(functools.partial(self._run, held(), needed))
            yield found

    def values_of(self, tensors: Sequence[Tensor], position: int) -> Iterator[list]:
        """Yields, batch by batch, what tensors hold.

        Args:
            tensors: which of the graph.
            position: nothing before this node will change again; none of `tensors`
                has been read for the last time by then.
        """
        self._advance(position)
        wanted, nodes = set(tensors), self._execution.nodes
        makers = [
            number
            for number in range(self._reached, len(nodes))
            if not wanted.isdisjoint(nodes[number].output_tensors)
        ]
        for held in self._held or ():
            values = Keeping(held(), wanted)
            if makers:
                self._run(values, self._needed(makers))
            yield [values[tensor] for tensor in tensors]

    def _run(self, values: Values, positions: Iterable[int]) -> None:
        """Runs nodes; what layers keep from call to call flows like any tensor."""
        mapping = [(state, values[id(state)]) for state in self._states]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self._execution.run(values, positions)
        for state in self._states:
            values[id(state)] = scope.get_current_value(state)

    def _advance(self, position: int) -> None:
        """Runs all batches up to a node, as nothing before it will change again."""
        if self._held is not None and position <= self._reached:
            return
        room, held = _IN_MEMORY, []
        for number, values in enumerate(self._batches()):
            self._run(values, range(self._reached, position))
            room -= sum(array.nbytes for array in _arrays(values).values())
            path = self._folder / f"{number}.npz" if room < 0 else None
            held.append(
                _masked(_on_disk(path, values) if path else values.copy, values)
            )
        self._held, self._reached = held, position

    def _batches(self) -> Iterator[Values]:
        if self._held is None:
            for batch in self.data:
                first = {id(state): ops.zeros_like(state) for state in self._states}
                yield {**self._execution.inputs(batch), **first}
        while self._held:
            yield self._held.pop(0)()

    def _needed(self, positions: Sequence[int]) -> list[int]:
        """Returns the nodes from here on that nodes at `positions` depend on."""
        nodes, needed = self._execution.nodes, set(positions)
        wanted: set[Tensor] = set()
        for position in range(max(positions), self._reached - 1, -1):
            node = nodes[position]
            if position in needed or not wanted.isdisjoint(node.output_tensors):
                needed.add(position)
                wanted.update(node.inputs)
        return sorted(needed)

    @functools.cached_property
    def _folder(self) -> Path:
        return Path(self._stack.enter_context(scratch()))


def _positions(graph: Graph, layers: list[keras.Layer]) -> dict[int, list[int]]:
    """Returns where in a graph layers are called, by their `id`."""
    found: dict[int, list[int]] = {id(layer): [] for layer in layers}
    for position, node in enumerate(graph.nodes):
        operation = node.operation
        inner = walk(operation) if isinstance(operation, keras.Layer) else ()
        for layer in (operation, *(layer for _, layer in inner)):
            if id(layer) in found:
                found[id(layer)].append(position)
    return found


def _arrays(values: Values) -> dict[Any, np.ndarray]:
    """Returns those of the tensors that a file of NumPy's can hold."""
    arrays = {
        key: ops.convert_to_numpy(value)
        for key, value in values.items()
        if hasattr(value, "numpy")
    }
    return {k: a for k, a in arrays.items() if a.dtype.isbuiltin and a.dtype != object}


def _on_disk(path: Path, values: Values) -> _Held:
    """Writes tensors to a file, and returns what reads them."""
    arrays = _arrays(values)
    np.savez(path, *arrays.values())
    keys = list(arrays)
    rest = {key: value for key, value in values.items() if key not in arrays}

    def read() -> Values:
        with np.load(path) as file:
            found = [ops.convert_to_tensor(file[name]) for name in file.files]
        return {**rest, **dict(zip(keys, found))}

    return read


def _masked(held: _Held, values: Values) -> _Held:
    """Returns what gives tensors back with the masks that they have now.

    A mask hangs on its tensor, and layers that have used one take it off.
    """
    masks = {key: getattr(value, "_keras_mask", None) for key, value in values.items()}

    def read() -> Values:
        values = held()
        for key, mask in masks.items():
            if mask is not None:
                values[key]._keras_mask = mask
        return values

    return read
