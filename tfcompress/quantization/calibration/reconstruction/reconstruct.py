"""Goes through a rounded model block by block, and lets each learn its integers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.errors import warn
from tfcompress.core.graph import Node, Tensor
from tfcompress.core.samples import states_of
from tfcompress.core.sweep import Sweep
from tfcompress.quantization.calibration.reconstruction.blocks import Block
from tfcompress.quantization.calibration.reconstruction.kept import KeptBlocks
from tfcompress.quantization.calibration.reconstruction.learning import (
    Learning,
    Samples,
    Settings,
)
from tfcompress.quantization.calibration.reconstruction.parts import (
    Weights,
    called_with,
    has_few_bits,
    reason_against,
)
from tfcompress.quantization.calibration.task import Calibration
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.wrapper import QuantizedLayer

# One sample in so many tells whether what was learned of the others is better.
_HELD_OUT = 8


def weights_of(model: keras.Model) -> Weights:
    """Returns the weights of the layers that round their kernels, by their `id`."""
    return {
        id(variable): ops.convert_to_numpy(variable)
        for layer in model.layers
        if isinstance(layer, QuantizedLayer)
        for variable in layer.layer.weights
    }


def learns(wrapper: QuantizedLayer) -> bool:
    """Returns whether a layer has kernels of few bits whose integers can be learned."""
    return has_few_bits(wrapper) and reason_against(wrapper) is None


def reconstruct(
    task: Calibration,
    weights: Weights,
    blocks: list[Block],
    settings: Settings,
    directory: str | None,
) -> None:
    """Lets blocks learn their integers; those that get no better stay as they are.

    Args:
        task: a model whose kernels are rounded already.
        weights: those of its layers before that.
        blocks: parts of its graph, in the order of their first calls.
        settings: how they learn.
        directory: where finished blocks are kept, or `None`.
    """
    model, graph, data = task.model, task.graph, task.data
    _name_the_others(model)
    if states_of(model):
        stateful = ", ".join(states_of(model))
        warn(f"No block is reconstructed: {stateful} keep a state between calls.")
        return
    size = graph.input_tensors[0].shape[0]
    if size is not None:
        settings = dataclasses.replace(settings, batch=size)
    kept = KeptBlocks(directory, _origin(task, weights, settings))
    plain = functools.partial(_plain_operation, weights)
    refused = []
    with (
        Sweep(model, graph, data) as rounded,
        Sweep(model, graph, data, (), plain) as exact,
    ):
        for number, block in enumerate(blocks):
            learning = Learning(graph, block, weights, settings, number)
            if not kept.read(number, learning.changed):
                samples = _samples(block, rounded, exact)
                if samples is None:
                    refused.append(block.name)
                else:
                    _learn(learning, samples)
                    kept.write(number, learning.changed)
            task.progress()
    if refused:
        warn(
            "These are rounded layer by layer, for their blocks mix samples with each "
            f"other: {', '.join(refused)}."
        )


def _learn(learning: Learning, samples: Samples) -> None:
    """Learns from most samples, and keeps what is better on the others."""
    count = len(samples.wanted[0])
    numbers = np.arange(count)
    is_out = numbers % _HELD_OUT == _HELD_OUT - 1
    if not is_out.any():
        is_out[-1] = count > 1
    known = samples.part(numbers[~is_out])
    others = samples.part(numbers[is_out]) if is_out.any() else known
    before = learning.errors(others, "present")
    learning.learn(known)
    after = learning.errors(others, "hard")
    if np.sum(after / np.maximum(before, 1e-30)) < len(before):
        learning.assign()


def _samples(block: Block, rounded: Sweep, exact: Sweep) -> Samples | None:
    """Returns what flows into a block and out of it; `None` if no sample is alone."""
    first = block.positions[0]
    found = (
        _gathered(rounded, block.inputs, first),
        _gathered(exact, block.inputs, first),
        _gathered(exact, block.outputs, first),
    )
    if any(part is None for part in found):
        return None
    return Samples(*found)  # type: ignore[arg-type]


def _gathered(
    sweep: Sweep, tensors: tuple[Tensor, ...], position: int
) -> list[np.ndarray] | None:
    """Returns tensors of all batches, (samples, rows of a sample, ...)."""
    parts: list[list[np.ndarray]] = [[] for _ in tensors]
    counts = [len(keras.tree.flatten(batch)[0]) for batch in sweep.data]
    for count, values in zip(counts, sweep.values_of(tensors, position)):
        for place, value in enumerate(values):
            array = ops.convert_to_numpy(value)
            if not array.ndim or len(array) % count:
                return None
            parts[place].append(array.reshape(count, -1, *array.shape[1:]))
    shapes = [{one.shape[1:] for one in part} for part in parts]
    if any(len(found) > 1 for found in shapes):
        return None
    return [np.concatenate(part) for part in parts]


def _plain_operation(weights: Weights, node: Node) -> Callable:
    """Returns what a node does in the float network."""
    operation = node.operation
    if isinstance(operation, FakeQuantize):
        return lambda inputs, **kwargs: ops.cast(inputs, "float32")
    if isinstance(operation, QuantizedLayer):
        own = {
            id(v): ops.convert_to_tensor(weights[id(v)])
            for v in operation.layer.weights
        }
        return functools.partial(called_with, operation.layer, own)
    return operation


def _origin(task: Calibration, weights: Weights, settings: Settings) -> list[Any]:
    """Returns all that results follow from."""
    arrays = [ops.convert_to_numpy(one) for one in task.model.weights]
    inputs = [
        np.asarray(ops.convert_to_numpy(leaf))
        for batch in task.data
        for leaf in keras.tree.flatten(batch)
    ]
    names = ",".join(node.name for node in task.graph.nodes)
    return [repr(settings), names, *arrays, *weights.values(), *inputs]


def _name_the_others(model: keras.Model) -> None:
    wrappers = [one for one in model.layers if isinstance(one, QuantizedLayer)]
    few = [wrapper for wrapper in wrappers if has_few_bits(wrapper)]
    if not few:
        warn(
            "There is nothing to reconstruct: no kernel has 4 bits or fewer. Those of "
            "8 bits are rounded to the nearest value."
        )
    left = {one.name: reason_against(one) for one in few}
    named = ", ".join(f"{name} ({reason})" for name, reason in left.items() if reason)
    if named:
        warn(f"These are rounded to the nearest value and learn nothing: {named}.")
