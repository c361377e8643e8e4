"""Runs the operations of a graph one after the other, with an eye on what flows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any

import keras

from tfcompress.core.graph import Graph, Node, Tensor, map_tensors

# Of tensors; whoever runs a graph may note more in it.
Values = dict[Any, Any]


class Keeping(dict):
    """Values of which some stay when they have been read for the last time.

    Args:
        values: what flows.
        kept: the tensors that stay.
    """

    def __init__(self, values: Values, kept: Collection[Tensor]):
        super().__init__(values)
        self._kept = kept

    def pop(self, key: Any, *default: Any) -> Any:
        return self.get(key) if key in self._kept else super().pop(key, *default)


class _AsInference(keras.Layer):
    """Runs a function as what a model does that is not in training.

    Layers ask the one that calls them whether they are.
    """

    def __init__(self) -> None:
        # The layers inside cast what they are given, each to its own type.
        super().__init__(name="as_inference", dtype="float32", autocast=False)
        self.built = True

    def call(self, inputs: None, run: Callable[[], Any], training: bool) -> Any:
        return run()


def as_inference(function: Callable[[], Any]) -> Any:
    """Returns what a function does, in the mode of a model that is not in training.

    >>> float(as_inference(lambda: keras.layers.Dropout(0.5)(keras.ops.ones(1)))[0])
    1.0
    """
    return _AsInference()(None, run=function, training=False)


class Execution:
    """The operations of a graph, run on tensors that are let go after their last use.

    A model that is called runs the same operations, but all of them, and keeps what
    each has made until its end.

    Args:
        graph: a traced model; the operations of its nodes are called.
        operation_of: what is called in place of a node's operation.
    """

    def __init__(
        self,
        graph: Graph,
        operation_of: Callable[[Node], Callable] = lambda node: node.operation,
    ):
        self.graph, self.nodes = graph, graph.nodes
        self._operations = [operation_of(node) for node in graph.nodes]
        last = {t: i for i, node in enumerate(graph.nodes) for t in node.output_tensors}
        last |= {t: i for i, node in enumerate(graph.nodes) for t in node.inputs}
        self._unused: list[list[Tensor]] = [[] for _ in graph.nodes]
        for tensor in last.keys() - set(graph.output_tensors):
            self._unused[last[tensor]].append(tensor)

    def inputs(self, batch: Any) -> Values:
        """Returns the values of the graph's inputs, of a batch as `Inputs` gives it."""
        given = zip(self.graph.input_tensors, keras.tree.flatten(batch))
        return {
            tensor: keras.ops.convert_to_tensor(value, dtype=tensor.dtype)
            for tensor, value in given
        }

    def run(self, values: Values, positions: Iterable[int]) -> None:
        """Calls the nodes at `positions`, in the mode of inference.

        Args:
            values: what flows; what the nodes make is added, and what is neither an
                output nor read behind them is taken out.
            positions: which nodes, in their order.
        """
        as_inference(functools.partial(self._run, values, positions))

    def _run(self, values: Values, positions: Iterable[int]) -> None:
        for position in positions:
            node = self.nodes[position]
            args, kwargs = map_tensors(values.__getitem__, (node.args, node.kwargs))
            if "training" in kwargs:
                kwargs["training"] = False
            made = keras.tree.flatten(self._operations[position](*args, **kwargs))
            values.update(zip(node.output_tensors, made))
            for tensor in self._unused[position]:
                values.pop(tensor, None)
