"""Runs a quantization-aware graph as the float model that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.data import Inputs
from tfcompress.core.execution import Execution, Values, as_inference
from tfcompress.core.graph import Graph, Node
from tfcompress.core.samples import untouched
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.wrapper import QuantizedLayer


class ChannelMeans:
    """The mean of each output channel of a layer, for each of its calls.

    Of what it puts out before its activation, whose mean says less.

    Args:
        layer: a layer with an attribute `activation`, or a wrapper of one.
    """

    def __init__(self, layer: Any):
        self.layer = layer
        self._sums: list[np.ndarray] = []
        self._counts: list[int] = []

    def add(self, call: int, inputs: Any, made: Any = None) -> None:
        """Adds a call to the sums.

        Args:
            call: which of the layer's calls it is, in a run of the model.
            inputs: what the layer is given.
            made: what it made of nothing but that, if this is known.
        """
        inner = getattr(self.layer, "layer", self.layer)
        linear = getattr(inner, "activation", None) is keras.activations.linear
        if made is None or not linear:
            made = _linear(self.layer, inputs)
        outputs = ops.convert_to_numpy(made).astype("float64")
        outputs = outputs.reshape(-1, outputs.shape[-1])
        if call == len(self._sums):
            self._sums.append(np.zeros(outputs.shape[-1]))
            self._counts.append(0)
        self._sums[call] += outputs.sum(axis=0)
        self._counts[call] += len(outputs)

    def means(self) -> np.ndarray:
        """Returns them, (calls, channels)."""
        return np.stack([s / n for s, n in zip(self._sums, self._counts)])


def _linear(layer: Any, inputs: Any) -> Any:
    """Runs a layer without its activation; it stays as it was."""
    inner = getattr(layer, "layer", layer)
    own = getattr(inner, "activation", None)
    try:
        inner.activation = keras.activations.linear
        with keras.StatelessScope():
            return as_inference(lambda: layer(inputs))
    finally:
        inner.activation = own


def taps(graph: Graph) -> list[FakeQuantize]:
    """Returns what takes ranges from the data, in the order of a run."""
    return [
        node.operation
        for node in graph.nodes
        if isinstance(node.operation, FakeQuantize)
        and node.kwargs.get("site") is not None
    ]


def run_in_float(
    model: keras.Model,
    graph: Graph,
    data: Inputs,
    measured: dict[QuantizedLayer, ChannelMeans],
    show: Callable[[FakeQuantize, np.ndarray], None],
) -> Iterator[Values]:
    """Runs a quantization-aware model without any rounding, and yields its outputs.

    Args:
        model: the model.
        graph: its traced graph.
        data: what it runs on.
        measured: is told what wrapped layers make.
        show: called with each of `taps` and what it would round.
    """
    calls = graph.calls()

    def operation_of(node: Node) -> Callable:
        operation = node.operation
        if isinstance(operation, FakeQuantize):
            return _shown(operation, show if node.kwargs["site"] is not None else None)
        if operation in measured:
            call = [one is node for one in calls[id(operation)]].index(True)
            return _measured(measured[operation], call)
        return operation.layer if isinstance(operation, QuantizedLayer) else operation

    execution = Execution(graph, operation_of)
    for batch in data:
        values = execution.inputs(batch)
        with untouched(model):
            execution.run(values, range(len(graph.nodes)))
        yield values


def _shown(layer: FakeQuantize, show: Callable | None) -> Callable:
    def call(inputs: Any, **kwargs: Any) -> Any:
        if show is not None:
            show(layer, ops.convert_to_numpy(inputs))
        return inputs

    return call


def _measured(means: ChannelMeans, number: int) -> Callable:
    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = means.layer(inputs, *args, **kwargs)
        means.add(number, inputs, None if args or kwargs else outputs)
        return outputs

    return call
