"""TimeDistributed(X) is X, on all steps of all samples at once.

A wrapper hides the layer in it from everything that looks at single operations. Here
it becomes three: the steps as samples, the layer (or all layers of a model), and the
samples as steps again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from tfcompress.core.copies import clone_operation
from tfcompress.core.graph import (
    Graph,
    Node,
    Tensor,
    is_graph_model,
    trace,
)
from tfcompress.core.inlining import inlined, is_composite
from tfcompress.core.registry import PACKAGE
from tfcompress.layers import fill
from tfcompress.quantization.mask_nodes import with_explicit_masks


@keras.saving.register_keras_serializable(package=PACKAGE)
class StepsAsSamples(keras.layers.Layer):
    """Makes a sample of each step: `(batch, time, ...)` becomes `(batch * time, ...)`.

    When to use: `quantize_aware` puts it before the layer that a TimeDistributed holds.

    Example:

    >>> StepsAsSamples()(ops.ones((2, 5, 3))).shape
    TensorShape([10, 3])
    """

    def call(self, inputs: Any) -> Any:
        return ops.reshape(inputs, (-1, *_sizes(inputs)[2:]))

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, time, *rest = input_shape
        fixed = batch is not None and time is not None
        return (batch * time if fixed else None, *rest)


@keras.saving.register_keras_serializable(package=PACKAGE)
class SamplesAsSteps(keras.layers.Layer):
    """Makes steps of samples: `(batch * time, ...)` becomes `(batch, time, ...)`.

    When to use: `quantize_aware` puts it behind the layer that a TimeDistributed holds.

    Args:
        time: how many steps there are; `None` to read it from a second argument of the
            call, the tensor that `StepsAsSamples` was given.

    Example:

    >>> SamplesAsSteps(5)(ops.ones((10, 3))).shape
    TensorShape([2, 5, 3])
    """

    def __init__(self, time: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.time = time

    def call(self, inputs: Any, steps: Any = None) -> Any:
        time = self.time or ops.shape(steps)[1]
        return ops.reshape(inputs, (-1, time, *_sizes(inputs)[1:]))

    def compute_output_shape(self, inputs_shape: Any, steps_shape: Any = None) -> Any:
        batch, *rest = inputs_shape
        fixed = batch is not None and self.time is not None
        return (batch // self.time if fixed else None, self.time, *rest)

    def get_config(self) -> dict:
        return {**super().get_config(), "time": self.time}


def _sizes(tensor: Any) -> list:
    """Returns the sizes of a tensor, as numbers where they are known."""
    running = ops.shape(tensor)
    return [running[i] if size is None else size for i, size in enumerate(tensor.shape)]


fill((StepsAsSamples, SamplesAsSteps), flow="select")


def with_steps_as_samples(
    graph: Graph, known: Callable[[Any], bool], purpose: str
) -> Graph:
    """Returns `graph` with each TimeDistributed as the layers that it holds.

    Args:
        graph: a graph whose masks are arguments (`with_explicit_masks`).
        known: whether a layer is understood as a whole, as in `inlined`.
        purpose: what for, in error messages.

    Raises:
        InvalidArgumentError: for a `call` that cannot be run on symbolic tensors.
    """
    opening = _Opening(known, purpose)
    graph = opening.opened(graph)
    return graph.without_unread(set(opening.reshapes))


class _Opening:
    def __init__(self, known: Callable[[Any], bool], purpose: str):
        self.known, self.purpose = known, purpose
        # The samples that steps were, or were made: so that two in a row need no
        # reshaping between them, and convolution, normalization and ReLU meet.
        self.samples: dict[Tensor, Tensor] = {}
        self.reshapes: list[Node] = []

    def opened(self, graph: Graph) -> Graph:
        return graph.flat_map(self._nodes)

    def _nodes(self, node: Node) -> list[Node]:
        layer = node.operation
        if not isinstance(layer, layers.TimeDistributed):
            return [node]
        call = inspect.signature(layer.call)
        arguments = call.bind_partial(*node.args, **node.kwargs).arguments
        steps, mask = arguments["inputs"], arguments.get("mask")
        if type(layer.layer) is layers.Dense and steps not in self.samples:
            # A Dense takes any number of axes as it is.
            return [Node(layer.layer, (steps,), {}, node.outputs)]
        before: list[Node] = []
        given = [self._as_samples(layer, steps, before)]
        takes_masks = "mask" in inspect.signature(layer.layer.call).parameters
        if isinstance(mask, Tensor) and takes_masks:
            given.append(self._as_samples(layer, mask, before))
        inner = self._graph(layer.layer, given)
        outputs = inner.output_tensors
        if len(outputs) != 1 or not isinstance(inner.outputs, Tensor):
            return [node]
        (made,) = outputs
        time = steps.shape[1]
        back = Node(
            SamplesAsSteps(time, name=f"{layer.name}_steps"),
            (made,) if time else (made, steps),
            {},
            node.outputs,
        )
        self.samples[node.output] = made
        self.reshapes += [*before, back]
        return [*before, *inner.nodes, back]

    def _as_samples(self, layer: Any, steps: Tensor, before: list[Node]) -> Tensor:
        if steps not in self.samples:
            reshape = StepsAsSamples(name=f"{layer.name}_samples")
            shape = reshape.compute_output_shape(steps.shape)
            self.samples[steps] = Tensor(shape, steps.dtype)
            before.append(Node(reshape, (steps,), {}, self.samples[steps]))
        return self.samples[steps]

    def _graph(self, layer: Any, given: list[Tensor]) -> Graph:
        """Returns the graph of what a TimeDistributed holds, reading `given`."""
        inputs, *masks = given
        if is_graph_model(layer):
            graph = trace(inlined(layer, self.known, self.purpose), self.purpose)
        else:
            fresh = keras.Input(batch_shape=inputs.shape, dtype=inputs.dtype)
            if is_composite(layer, self.known):
                model = keras.Model(fresh, layer(fresh))
                graph = trace(inlined(model, self.known, self.purpose), self.purpose)
            else:
                # A copy is called: the user's own layer gets no inbound node.
                copy = clone_operation(layer)
                graph = trace(keras.Model(fresh, copy(fresh)), self.purpose)
                graph = graph.with_operations(lambda _: {"operation": layer})
        graph = with_explicit_masks(graph.fed_with(inputs), dict(zip([inputs], masks)))
        return self.opened(graph)
