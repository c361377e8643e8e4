"""A recurrent layer in training: one step, run in a loop.

LiteRT has no loop whose body stays in integers, so files hold one step after the other.
A training graph of that form takes long to build and to run; here the step is a small
model that a loop calls, with its ranges in the loop's state. `unrolled` makes the long
form of it, which computes the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.copies import clone_operation
from tfcompress.core.graph import (
    Graph,
    Node,
    Tensor,
    build,
    trace,
    trace_function,
    with_operations,
)
from tfcompress.core.registry import PACKAGE
from tfcompress.core.replicas import from_all
from tfcompress.core.select import walk
from tfcompress.layers import fill, kernels_of
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.integers.kernels import EIGHT_BITS
from tfcompress.quantization.sequence_steps import at_step


@keras.saving.register_keras_serializable(package=PACKAGE)
class RecurrentSteps(keras.layers.Layer):
    """Runs the steps of a recurrent layer in a loop.

    When to use: `quantize_aware` makes it of LSTM, GRU and SimpleRNN. `finalize` puts
    the steps one after the other, as they are in a file.

    Args:
        model: a Functional model of the first step and a later one. Its inputs: what
            the kernel gives for the first step, for a later one, the states, and those
            of the first step if they are given; with a mask, whether the first and the
            later step are seen. Its outputs: the states and the output of the first
            step, and those of the later one.
        states: how many states there are.
        return_sequences: whether to return the outputs of all steps.
        backwards: whether to begin at the end.
        in_time_order: whether outputs are in the order of time, not of computation.
        given_states: whether calls say with which states to begin.
        return_state: whether to return the last states behind the outputs.
    """

    def __init__(
        self,
        model: keras.Model,
        states: int,
        return_sequences: bool = False,
        backwards: bool = False,
        in_time_order: bool = False,
        **kwargs: Any,
    ):
        # Not arguments like the others, of which there are many enough.
        self.given_states = bool(kwargs.pop("given_states", False))
        self.return_state = bool(kwargs.pop("return_state", False))
        super().__init__(**kwargs)
        self.supports_masking = True
        self.model, self.states = model, states
        self.return_sequences = return_sequences
        self.backwards, self.in_time_order = backwards, in_time_order
        first, later = self._inputs_of(model.inputs)
        made = model.outputs
        # As functions: these models are views of the one that holds the weights.
        self._first = keras.Model(first, made[: states + 1]).__call__
        self._later = keras.Model(later, made[states + 1 : 2 * (states + 1)]).__call__

    def _inputs_of(self, read: list) -> tuple[list, list]:
        """Returns which inputs of the model the first and a later step have."""
        count = self.states
        before, rest = read[2 : 2 + count], read[2 + count :]
        initial = rest[: count * self.given_states]
        seen = rest[count * self.given_states :]
        first = [read[0], *seen[:1], *initial]
        return first, [read[1], *seen[1:], *before]

    @property
    def _flips(self) -> bool:
        return self.backwards and self.in_time_order

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        initial_state: Any = None,
        training: bool = False,
    ) -> Any:
        length = inputs.shape[1]
        sequences = [inputs]
        if mask is not None:
            sequences.append(ops.expand_dims(mask, -1))
        sequences = [ops.swapaxes(one, 0, 1) for one in sequences]
        if self.backwards:
            sequences = [ops.flip(one, 0) for one in sequences]
        with at_step(0, length):
            now = [*(one[0] for one in sequences), *(initial_state or [])]
            *states, output = self._first(now, training=training)
        observing = self._observing() if training else []
        moving = [ops.convert_to_tensor(variable) for variable in observing]

        def later(at: Any, given: list, carry: list) -> tuple[Any, list]:
            states, moving = carry[: self.states], carry[self.states :]
            mapping = list(zip(observing, moving))
            now, *seen = given
            with keras.StatelessScope(mapping) as scope, at_step(at, length):
                *states, output = self._later([now, *seen, *states], training=training)
            moved = [scope.get_current_value(variable) for variable in observing]
            return output, [*states, *moved]

        if length > 1:
            rest = [one[1:] for one in sequences]
            outputs, last = _loop(later, rest, [*states, *moving], length - 1)
            for variable, value in zip(observing, last[self.states :]):
                variable.assign(ops.mean(from_all(value), axis=0))
            outputs = ops.concatenate([output[None], outputs], 0)
            states = last[: self.states]
        else:
            outputs = output[None]
        if self.return_sequences:
            outputs = ops.flip(outputs, 0) if self._flips else outputs
            result = ops.swapaxes(outputs, 0, 1)
        else:
            result = outputs[-1]
        return (result, *states) if self.return_state else result

    def _observing(self) -> list:
        """Returns the variables that calls of the step change."""
        return [
            variable
            for _, layer in walk(self.model)
            if isinstance(layer, FakeQuantize) and not layer.frozen
            for variable in layer.variables
        ]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        mask = mask if self.return_sequences else None
        return [mask, *[None] * self.states] if self.return_state else mask

    def compute_output_shape(
        self, inputs_shape: Any, mask_shape: Any = None, initial_state_shape: Any = None
    ) -> Any:
        batch, length, _ = inputs_shape
        state = (batch, self.model.outputs[-1].shape[-1])
        result = (batch, length, state[1]) if self.return_sequences else state
        return (result, *[state] * self.states) if self.return_state else result

    def unrolled(
        self, node: Node, own_ranges: bool, continued: list[Tensor] | None = None
    ) -> tuple[list[Node], list[Tensor], list[Tensor]]:
        """Returns the nodes that a call of this layer stands for.

        Args:
            node: the call.
            own_ranges: whether each step gets ranges of its own.
            continued: the rounded states of a call that this one goes on from; None at
                the beginning of a sequence.

        Returns:
            The nodes, the outputs, and the states at the end.
        """
        sequence, mask = node.args[0], node.kwargs.get("mask")
        length = sequence.shape[1] or 0
        order = range(length)[:: -1 if self.backwards else 1]
        nodes, given = _steps_of([sequence, *([] if mask is None else [mask])], order)
        inner = trace(self.model)
        made, count = inner.output_tensors, self.states
        first, later = self._inputs_of(inner.input_tensors)
        states: list[Tensor] = list(node.kwargs.get("initial_state") or [])
        begins = continued is None
        states = states if continued is None else continued
        outputs: list[Tensor] = []
        for position, now in enumerate(given):
            begin = begins and not position
            mapping = dict(zip(first if begin else later, [*now, *states]))
            wanted = made[: count + 1] if begin else made[count + 1 :]
            step = _copied(inner.nodes, mapping, wanted, position, length)
            leaving = [mapping[tensor] for tensor in wanted]
            nodes += _with_own_ranges(step, leaving) if own_ranges else step
            *states, output = leaving
            outputs.append(output)
        ends = states if self.return_state else []
        if not self.return_sequences:
            return nodes, [outputs[-1], *ends], states
        outputs = outputs[::-1] if self._flips else outputs
        stack, (result,) = trace_function(outputs, lambda *s: [ops.stack(s, axis=1)])
        return [*nodes, *stack], [result, *ends], states

    def state_range(self, number: int) -> Node:
        """Returns the rounding that makes a state of a later step."""
        inner = trace(self.model)
        producers = inner.producers()
        return producers[inner.output_tensors[self.states + 1 + number]]

    def with_model(self, model: keras.Model) -> RecurrentSteps:
        """Returns this layer with another model of its steps."""
        config = keras.Layer.get_config(self)
        return RecurrentSteps(
            model,
            self.states,
            self.return_sequences,
            self.backwards,
            self.in_time_order,
            given_states=self.given_states,
            return_state=self.return_state,
            **config,
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "states": self.states,
            "return_sequences": self.return_sequences,
            "backwards": self.backwards,
            "in_time_order": self.in_time_order,
            "given_states": self.given_states,
            "return_state": self.return_state,
        }

    @classmethod
    def from_config(cls, config: dict) -> RecurrentSteps:
        model = keras.saving.deserialize_keras_object(config["model"])
        return cls(**{**config, "model": model})


def _loop(
    step: Callable[[Any, list, list], tuple[Any, list]],
    sequences: list,
    carry: list,
    length: int,
) -> tuple[Any, list]:
    """Returns the outputs of all steps, and what the last one hands on.

    `keras.ops.scan` stacks all that is handed on, and XLA cannot compile its gradient.
    """
    import tensorflow as tf

    read = [
        tf.TensorArray(one.dtype, length, element_shape=one.shape[1:]).unstack(one)
        for one in sequences
    ]
    made = tf.TensorArray(carry[0].dtype, length, element_shape=carry[0].shape)

    def body(at: Any, carry: list, made: Any) -> tuple:
        output, carry = step(at + 1, [one.read(at) for one in read], carry)
        return at + 1, carry, made.write(at, output)

    _, carry, made = tf.while_loop(
        lambda at, *_: at < length,
        body,
        (tf.constant(0), carry, made),
        maximum_iterations=length,
    )
    return made.stack(), carry


def map_steps(graph: Graph, function: Callable[[Graph, int], Graph]) -> Graph:
    """Returns `graph` with the model of each recurrent layer's steps changed.

    Args:
        graph: the graph that holds the layers.
        function: is given the graph of a first and a later step, and the number of
            steps.
    """
    calls = graph.calls()

    def mapped(node: Node) -> dict[str, Any]:
        layer: Any = node.operation
        if not isinstance(layer, RecurrentSteps):
            return {}
        length = max(call.inputs[0].shape[1] or 0 for call in calls[id(layer)])
        inner = function(trace(layer.model), length)
        # Outputs beyond these have done their part: they told who shares a range.
        outputs = inner.outputs[: 2 * (layer.states + 1)]
        changed = layer.with_model(build(dataclasses.replace(inner, outputs=outputs)))
        changed.trainable = layer.trainable
        return {"operation": changed, "weights": changed.get_weights}

    return graph.with_operations(mapped)


def unrolled(graph: Graph, own_ranges: bool = False) -> Graph:
    """Returns `graph` with one step after the other in the place of loops.

    Args:
        graph: the graph that holds the layers.
        own_ranges: whether each step gets ranges of its own. In a loop all steps share
            theirs, so this is for ranges that are still to be found.
    """
    nodes: list[Node] = []
    mapping: dict[Tensor, Tensor] = {}
    for node in graph.nodes:
        node = node.reading(mapping)
        if isinstance(node.operation, RecurrentSteps):
            inner, outputs, _ = node.operation.unrolled(node, own_ranges)
            mapping.update(zip(node.output_tensors, outputs))
            nodes += inner
        else:
            nodes.append(node)
    return graph.substitute(mapping, nodes)


def _steps_of(
    sequences: list[Tensor], order: range
) -> tuple[list[Node], list[list[Tensor]]]:
    """Returns the nodes that cut sequences into steps, and the tensors of each step."""

    def cut(*sequences: Any) -> list:
        return [
            ops.expand_dims(one[:, at], -1) if len(one.shape) == 2 else one[:, at]
            for at in order
            for one in sequences
        ]

    nodes, flat = trace_function(sequences, cut)
    width = len(sequences)
    return nodes, [flat[i : i + width] for i in range(0, len(flat), width)]


def _copied(
    nodes: list[Node],
    mapping: dict[Tensor, Tensor],
    wanted: list[Tensor],
    position: int,
    length: int,
) -> list[Node]:
    """Returns those nodes of one step that make `wanted`, noting all in `mapping`."""
    needed = set(wanted)
    for node in reversed(nodes):
        if needed.intersection(node.output_tensors):
            needed.update(node.inputs)
    copies = []
    for node in nodes:
        if not needed.intersection(node.output_tensors):
            continue
        for tensor in node.output_tensors:
            mapping[tensor] = Tensor(tensor.shape, tensor.dtype)
        kwargs = dict(node.kwargs)
        if isinstance(node.operation, FakeQuantize) and kwargs["site"] is not None:
            kwargs["site"] = kwargs["site"] * length + position
        copy = dataclasses.replace(node, kwargs=kwargs)
        copies.append(copy.reading(mapping).making(mapping))
    return copies


def _with_own_ranges(step: list[Node], leaving: list[Tensor]) -> list[Node]:
    """Returns the nodes of a step with copies of the ranges that end in it.

    What other steps read, or are stacked with, keeps the range that it shares. A mask
    chooses between a new state and the one before, so the two share theirs.

    Args:
        step: the nodes of one step.
        leaving: what of it others read.
    """
    producers = {tensor: node for node in step for tensor in node.output_tensors}
    handed_on: set[int] = set()
    todo = list(leaving)
    while todo:
        maker = producers.get(todo.pop())
        if maker is None:
            continue
        if isinstance(maker.operation, FakeQuantize):
            handed_on.add(id(maker.operation))
        else:  # it only passes on what was rounded
            todo += maker.inputs

    def copied(node: Node) -> dict[str, Any]:
        layer = node.operation
        if not isinstance(layer, FakeQuantize) or id(layer) in handed_on:
            return {}
        weights = node.weights or layer.get_weights
        return {"operation": clone_operation(layer), "weights": weights}

    return with_operations(step, copied)


def _macs(layer: RecurrentSteps, inputs: list, output: tuple) -> int:
    inner = (one for _, one in walk(layer.model))
    kernels = (variable for one in inner for _, variable in kernels_of(one))
    return inputs[0][0] * sum(math.prod(variable.shape) for variable in kernels)


fill((RecurrentSteps,), flow="arithmetic", macs=_macs, integers=EIGHT_BITS)
