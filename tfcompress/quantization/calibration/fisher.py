"""How much a loss minds that single weights move: the diagonal of its Fisher matrix."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.execution import Execution
from tfcompress.core.graph import Graph, Node
from tfcompress.layers import kernels_of
from tfcompress.quantization.calibration.reconstruction.parts import called_with
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.wrapper import QuantizedLayer


def fisher(
    graph: Graph, inputs: list[np.ndarray], batch: int, seed: int, classes: bool
) -> dict[int, np.ndarray]:
    """Returns the diagonal of the Fisher matrix at the kernels, by their `id`.

    Source: Amari, "Natural Gradient Works Efficiently in Learning", 1998: `F` is the
    mean of `g * g`, where `g` is the gradient of `-log p(y | x)` and the label `y` is
    drawn from the model's own prediction. Of a batch of `B` inputs, whose gradients are
    independent and zero on average, it is `B` times the square of the mean gradient
    (Martens, "New Insights and Perspectives on the Natural Gradient Method", 2020).

    Args:
        graph: a quantization-aware graph, which runs without any rounding.
        inputs: the model's inputs, in their order.
        batch: how many samples a gradient is the mean of.
        seed: of the labels that are drawn.
        classes: whether the last axis of each output has one number per class; the
            prediction is a normal distribution around the outputs otherwise.
    """
    import tensorflow as tf

    kernels = {
        id(variable): variable
        for node in graph.nodes
        if isinstance(node.operation, QuantizedLayer)
        for _, variable in kernels_of(node.operation.layer)
    }
    values = {
        key: tf.constant(ops.convert_to_numpy(one)) for key, one in kernels.items()
    }
    execution = Execution(graph, functools.partial(_plain, values))
    softmax = [_ends_in_softmax(graph, tensor) for tensor in graph.output_tensors]

    @tf.function(autograph=False)
    def squares(number: Any, *parts: Any) -> list:
        with tf.GradientTape() as tape:
            tape.watch([*values.values()])
            flowing = execution.inputs([*parts])
            execution.run(flowing, range(len(graph.nodes)))
            loss = 0.0
            for place, tensor in enumerate(graph.output_tensors):
                draw = tf.stack([seed + place, number])
                made = ops.cast(flowing[tensor], "float32")
                loss += _surprise(made, draw, classes, softmax[place])
        zero = tf.UnconnectedGradients.ZERO
        found = tape.gradient(loss, [*values.values()], unconnected_gradients=zero)
        return [tf.square(tf.convert_to_tensor(one)) for one in found]

    count = len(inputs[0]) // batch
    sums = [np.zeros(tuple(one.shape)) for one in kernels.values()]
    parts = [array[:batch] for array in inputs]
    once = squares.get_concrete_function(
        tf.constant(0), *(tf.constant(part) for part in parts)
    )
    for number in range(count):
        rows = slice(number * batch, (number + 1) * batch)
        given = [tf.constant(array[rows]) for array in inputs]
        for total, found in zip(sums, once(tf.constant(number), *given)):
            total += found.numpy()
    return {key: total * batch / count for key, total in zip(kernels, sums)}


def _surprise(outputs: Any, draw: Any, classes: bool, softmax: bool) -> Any:
    """Returns the mean of `-log p(y | x)` of a label that the prediction draws."""
    import tensorflow as tf

    if not classes:
        size = ops.stop_gradient(ops.std(outputs)) + 1e-12
        noise = tf.random.stateless_normal(tf.shape(outputs), draw)
        per_sample = ops.sum(
            ops.reshape(outputs * noise, (ops.shape(outputs)[0], -1)), 1
        )
        return ops.mean(per_sample) / size
    rows = ops.reshape(outputs, (-1, outputs.shape[-1]))
    logs = ops.log(ops.maximum(rows, 1e-7)) if softmax else ops.log_softmax(rows)
    uniform = tf.random.stateless_uniform(tf.shape(rows), draw, 1e-7, 1.0)
    # The largest sum with Gumbel noise is a draw from the distribution.
    label = ops.argmax(ops.stop_gradient(logs) - ops.log(-ops.log(uniform)), axis=-1)
    chosen = ops.sum(logs * ops.one_hot(label, rows.shape[-1]), axis=-1)
    return -ops.sum(chosen) / ops.cast(ops.shape(outputs)[0], "float32")


def _plain(values: dict[int, Any], node: Node) -> Callable:
    operation = node.operation
    if isinstance(operation, FakeQuantize):
        return lambda inputs, **kwargs: ops.cast(inputs, "float32")
    if isinstance(operation, QuantizedLayer):
        return functools.partial(called_with, operation.layer, values)
    return operation


def _ends_in_softmax(graph: Graph, tensor: Any) -> bool:
    """Returns whether a tensor is what a softmax makes, rounded or not."""
    producers = graph.producers()
    while tensor in producers:
        operation = producers[tensor].operation
        if not isinstance(operation, FakeQuantize):
            activation = getattr(operation, "activation", None)
            named = activation is keras.activations.softmax
            return named or type(operation).__name__ == "Softmax"
        tensor = producers[tensor].inputs[0]
    return False
