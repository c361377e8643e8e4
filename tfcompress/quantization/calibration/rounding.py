"""Rounding kernels so that the outputs of their layers change least."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.data import Inputs
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Graph
from tfcompress.core.sweep import Sweep
from tfcompress.layers.matrix import reason_against, rows
from tfcompress.quantization.calibration.float_run import ChannelMeans
from tfcompress.quantization.integers.storage import INT4
from tfcompress.quantization.quantizers.blockwise import (
    BlockwiseQuantizer,
    stored_step,
)
from tfcompress.quantization.wrapper import QuantizedLayer

# Share of the mean diagonal that is added to the Hessian, as in GPTQ.
_DAMPING = 0.01
_STEP_SHARES = np.linspace(1.0, 0.4, 31)


def rounded(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Returns a kernel at 4 bits, with the best step for each output channel.

    Args:
        values: the kernel.
        axes: its axes that are not output channels (`Kernel.reduction_axes`).

    Example:

    >>> rounded(np.array([[7.0, 70.0], [1.0, 10.0]]), axes=(0,)).round(3).tolist()
    [[7.0, 70.0], [1.0, 10.0]]
    """
    matrix, restored = as_matrix(values, axes)
    step = best_steps(matrix, INT4, np.ones(len(matrix)))
    return restored(np.clip(np.round(matrix / step), -INT4, INT4) * step)


def as_matrix(
    values: np.ndarray, axes: tuple[int, ...]
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Returns a kernel as (inputs, outputs), float64, and what turns it back.

    Args:
        values: the kernel.
        axes: its axes that are not output channels.

    Example:

    >>> matrix, restored = as_matrix(np.ones((4, 3, 2)), axes=(0, 2))
    >>> matrix.shape, restored(matrix).shape
    ((8, 3), (4, 3, 2))
    """
    order = [*axes, *(a for a in range(values.ndim) if a not in axes)]
    moved = values.astype("float64").transpose(order)

    def restored(matrix: np.ndarray) -> np.ndarray:
        back = matrix.reshape(moved.shape).transpose(np.argsort(order))
        return back.astype("float32")

    return moved.reshape(math.prod(moved.shape[: len(axes)]), -1), restored


def best_steps(matrix: np.ndarray, levels: int, importance: np.ndarray) -> np.ndarray:
    """Returns the step of each column with the least weighted rounding error.

    Args:
        matrix: weights, (inputs, outputs).
        levels: the largest integer.
        importance: mean square of each input.

    Example:

    >>> best_steps(np.array([[0.7], [0.1], [0.3]]), 7, np.ones(3)).round(3).tolist()
    [0.1]
    """
    largest = np.abs(matrix).max(axis=0)
    widest = np.where(largest > 0, largest, 1.0) / levels
    best, least = widest, np.full(len(widest), np.inf)
    for share in _STEP_SHARES:
        step = widest * share
        off = np.clip(np.round(matrix / step), -levels, levels) * step - matrix
        error = importance @ off**2
        best, least = np.where(error < least, step, best), np.minimum(error, least)
    return best


def block_steps(
    matrix: np.ndarray, levels: int, importance: np.ndarray, size: int
) -> np.ndarray:
    """Returns the best step of each block of rows, in each column: (blocks, columns).

    Args:
        matrix: weights, (inputs, outputs).
        levels: the largest integer.
        importance: mean square of each input.
        size: rows of a block.

    Example:

    >>> block_steps(np.array([[0.7], [7.0]]), 7, np.ones(2), 1).round(3).tolist()
    [[0.1], [1.0]]
    """
    blocks = matrix.reshape(-1, size, matrix.shape[1])
    if (importance == importance[0]).all():
        flat = blocks.transpose(1, 0, 2).reshape(size, -1)
        return best_steps(flat, levels, importance[:size]).reshape(len(blocks), -1)
    pairs = zip(blocks, importance.reshape(-1, size))
    return np.stack([best_steps(block, levels, weight) for block, weight in pairs])


def adaptive_rounding(
    matrix: np.ndarray, gram: np.ndarray, step: np.ndarray, levels: int
) -> np.ndarray:
    """Rounds weights one input after the other; the rest makes up for the errors.

    Source: Frantar et al., "GPTQ", 2023 (after Optimal Brain Surgeon, 1993). With the
    Hessian `H = x'x + damping`, weight `i` of all outputs is rounded, and the later
    ones move by `-error / U[i, i] * U[i, i+1:]`, where `U` is the upper Cholesky
    factor of the inverse of `H`. Zeros stay zero.

    Args:
        matrix: weights, (inputs, outputs).
        gram: mean of `x'x`, (inputs, inputs).
        step: distance between values, per output, or per input and output.
        levels: the largest integer.
    """
    gram = gram + np.eye(len(gram)) * (_DAMPING * np.mean(np.diag(gram)) + 1e-12)
    # The lower factor L has inv(H) = L L', so U = L' is the upper one.
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    zero, step = matrix == 0, np.broadcast_to(step, matrix.shape)
    left = matrix.astype("float64").copy()
    rounded = np.zeros_like(left)
    for i in range(len(left)):
        integers = np.clip(np.round(left[i] / step[i]), -levels, levels)
        rounded[i] = np.where(zero[i], 0.0, integers * step[i])
        error = (left[i] - rounded[i]) / upper[i, i]
        left[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
    return rounded


def round_kernels(
    model: keras.Model,
    graph: Graph,
    data: Inputs | None,
    wanted: dict[QuantizedLayer, np.ndarray],
    adaptive: bool,
    progress: Callable[[], None],
) -> None:
    """Sets steps, kernels and biases of `model`, in the order of its layers.

    Args:
        model: a quantization-aware model whose ranges are set.
        graph: its traced graph.
        data: typical inputs; None rounds each weight to the nearest value.
        wanted: of layers whose biases are to move, the mean of every output channel in
            float, for each of their calls (Nagel et al., 2019).
        adaptive: whether to round kernels by `adaptive_rounding`.
        progress: is called after each layer.
    """
    touched = rounded_in_order(model, wanted)
    asked = [one for wrapper in touched for one in _asked_for(wrapper)]
    sweeping: Any = contextlib.nullcontext()
    if data is not None:
        sweeping = Sweep(model, graph, data, asked)
    with sweeping as sweep:
        for wrapper in touched:
            if has_steps(wrapper):
                _round(wrapper, sweep, adaptive)
            if wrapper in wanted:
                got = ChannelMeans(wrapper)
                for found in sweep.inputs_of(wrapper):
                    for call, inputs in enumerate(found):
                        got.add(call, inputs)
                _correct_bias(wrapper.layer.bias, wanted[wrapper] - got.means())
            progress()


def rounded_in_order(
    model: keras.Model, biased: Collection[QuantizedLayer]
) -> list[QuantizedLayer]:
    """Returns the layers of a model that rounding changes, in their order."""
    wrappers = [one for one in model.layers if isinstance(one, QuantizedLayer)]
    return [one for one in wrappers if has_steps(one) or one in biased]


def has_steps(wrapper: QuantizedLayer) -> bool:
    """Returns whether a layer's kernels are rounded to steps that it keeps."""
    return any("step" in states for states in wrapper.states)


def _asked_for(wrapper: QuantizedLayer) -> list[Any]:
    """Returns the layers whose inputs rounding asks for: a wrapper, or its parts."""
    owners = {id(owner): owner for owner, _, _ in wrapper.parts()}
    within = [owner for owner in owners.values() if owner is not wrapper.layer]
    return within or [wrapper]


def _round(wrapper: Any, sweep: Sweep | None, adaptive: bool) -> None:
    grams: dict[int, Any] = {}
    for (owner, kernel, variable), states in zip(wrapper.parts(), wrapper.states):
        if id(owner) not in grams:
            shown = wrapper if owner is wrapper.layer else owner
            known = sweep is not None and reason_against(owner) is None
            grams[id(owner)] = _gram(shown, owner, sweep) if known else None
        gram = grams[id(owner)]
        axes = kernel.reduction_axes(len(variable.shape))
        matrix, restored = as_matrix(ops.convert_to_numpy(variable), axes)
        importance = np.ones(len(matrix)) if gram is None else np.diag(gram)
        levels = wrapper.quantizer.levels
        if wrapper.has_one_scale(kernel):
            # Weights that share a value are to share an integer: none moves alone.
            flat = matrix.reshape(-1, 1)
            step = best_steps(flat, levels, np.ones(len(flat)))
            states["step"].assign(np.full(states["step"].shape, step.item()))
            continue
        size = len(matrix)
        if isinstance(wrapper.quantizer, BlockwiseQuantizer):
            size = wrapper.quantizer.block_size
        step = block_steps(matrix, levels, importance, size)
        if isinstance(wrapper.quantizer, BlockwiseQuantizer):
            step = ops.convert_to_numpy(stored_step(step))
        states["step"].assign(step.reshape(states["step"].shape))
        if adaptive and gram is not None:
            stored = ops.convert_to_numpy(states["step"]).astype("float64")
            stored = np.repeat(stored.reshape(step.shape), size, axis=0)
            variable.assign(restored(adaptive_rounding(matrix, gram, stored, levels)))


def _gram(shown: Any, layer: Any, sweep: Any) -> np.ndarray:
    """Returns the mean of `x'x`; of several calls, of each in units of its own size.

    The outputs of a call with small inputs matter as much as those of one with large.
    """
    grams: list[Any] = []
    counts: list[int] = []
    for found in sweep.inputs_of(shown):
        grams = grams or [0.0] * len(found)
        counts = counts or [0] * len(found)
        for call, inputs in enumerate(found):
            x = rows(layer, inputs).astype("float64")
            grams[call], counts[call] = grams[call] + x.T @ x, counts[call] + len(x)
    if not all(np.all(np.isfinite(gram)) for gram in grams):
        raise InvalidArgumentError(
            f"The inputs of layer '{shown.name}' are not finite on the given data.",
            expected="data and weights without NaN",
        )
    grams = [gram / count for gram, count in zip(grams, counts)]
    if len(grams) == 1:
        return grams[0]
    return np.mean([gram / (np.trace(gram) or 1.0) for gram in grams], axis=0)


def _correct_bias(bias: Any, errors: np.ndarray) -> None:
    shift = common_shift(errors).reshape(bias.shape).astype("float32")
    bias.assign(ops.convert_to_numpy(bias) + shift)


def common_shift(errors: np.ndarray) -> np.ndarray:
    """Returns what one bias can make up for, of the errors of all calls of a layer.

    It is the smallest of them where all calls err in the same direction, so that it
    makes none of them worse; 0 elsewhere.

    Args:
        errors: by how much the mean of each channel is too low, (calls, channels).

    Example:

    >>> common_shift(np.array([[0.5, 0.5, -2.0], [0.1, -0.5, -1.0]])).tolist()
    [0.1, 0.0, -1.0]
    """
    smallest = np.abs(errors).min(axis=0)
    agree = np.abs(np.sign(errors).sum(axis=0)) == len(errors)
    return np.where(agree, np.sign(errors[0]) * smallest, 0.0)
