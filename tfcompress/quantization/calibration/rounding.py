"""Rounding kernels so that the outputs of their layers change least."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.data import Inputs
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.layer_inputs import Recorder, reason_against, rows
from tfcompress.layer_rules import kernels_of
from tfcompress.quantization.wrapper import QuantizedLayer

# Share of the mean diagonal that is added to the Hessian, as in GPTQ.
_DAMPING = 0.01
_STEP_SHARES = np.linspace(1.0, 0.4, 31)


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
        step: distance between values, per output.
        levels: the largest integer.
    """
    gram = gram + np.eye(len(gram)) * (_DAMPING * np.mean(np.diag(gram)) + 1e-12)
    # The lower factor L has inv(H) = L L', so U = L' is the upper one.
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    zero = matrix == 0
    left = matrix.astype("float64").copy()
    rounded = np.zeros_like(left)
    for i in range(len(left)):
        integers = np.clip(np.round(left[i] / step), -levels, levels)
        rounded[i] = np.where(zero[i], 0.0, integers * step)
        error = (left[i] - rounded[i]) / upper[i, i]
        left[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
    return rounded


def round_kernels(
    model: keras.Model,
    reference: keras.Model,
    data: Inputs,
    adaptive: bool,
    correct_bias: bool,
) -> None:
    """Sets steps, kernels and biases of `model`, in the order of its layers.

    Args:
        model: a quantization-aware model whose ranges are set.
        reference: the same model in float; its layers bear the same names.
        data: typical inputs.
        adaptive: whether to round kernels by `adaptive_rounding`.
        correct_bias: whether to move biases so that the mean of every output channel
            stays what it was (Nagel et al., 2019).
    """
    for wrapper in model.layers:
        if not isinstance(wrapper, QuantizedLayer):
            continue
        learned = any("step" in states for states in wrapper.states)
        biased = correct_bias and getattr(wrapper.layer, "bias", None) is not None
        if learned:
            _round(wrapper, model, data, adaptive)
        if biased:
            _correct_bias(
                wrapper, reference.get_layer(wrapper.name), model, reference, data
            )


def _round(wrapper: Any, model: keras.Model, data: Any, adaptive: bool) -> None:
    layer = wrapper.layer
    known = reason_against(layer) is None
    gram = _gram(wrapper, model, data) if known else None
    for (kernel, variable), states in zip(kernels_of(layer), wrapper.states):
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
        step = best_steps(matrix, levels, importance)
        states["step"].assign(step.reshape(states["step"].shape))
        if adaptive and gram is not None:
            stored = ops.convert_to_numpy(states["step"]).reshape(-1).astype("float64")
            variable.assign(restored(adaptive_rounding(matrix, gram, stored, levels)))


def _gram(wrapper: Any, model: keras.Model, data: Inputs) -> np.ndarray:
    total, count = 0.0, 0  # type: Any, int
    found: list[np.ndarray] = []
    show = found.append
    with Recorder(wrapper, lambda x: show(rows(wrapper.layer, x))) as recorder:
        for batch in data:
            recorder.run(model, batch)
            for x in found:
                x = x.astype("float64")
                total, count = total + x.T @ x, count + len(x)
            found.clear()
    if not np.all(np.isfinite(total)):
        raise InvalidArgumentError(
            f"The inputs of layer '{wrapper.name}' are not finite on the given data.",
            expected="data and weights without NaN",
        )
    return total / count


def _correct_bias(
    wrapper: Any, twin: Any, model: keras.Model, reference: keras.Model, data: Inputs
) -> None:
    means = []
    for layer, owner in ((wrapper, model), (twin, reference)):
        sums, count = 0.0, 0  # type: Any, int
        inputs: list = []
        with Recorder(layer, inputs.append, calls=1) as recorder:
            for batch in data:
                recorder.run(owner, batch)
        for x in inputs:
            outputs = ops.convert_to_numpy(_linear(layer, x)).astype("float64")
            sums = sums + outputs.reshape(-1, outputs.shape[-1]).sum(axis=0)
            count += outputs.size // outputs.shape[-1]
        means.append(sums / count)
    bias = wrapper.layer.bias
    shift = (means[1] - means[0]).reshape(bias.shape)
    bias.assign(ops.convert_to_numpy(bias) + shift.astype("float32"))


def _linear(layer: Any, inputs: Any) -> Any:
    """Runs a layer without its activation, whose mean says less."""
    inner = getattr(layer, "layer", layer)
    own = getattr(inner, "activation", None)
    try:
        inner.activation = keras.activations.linear
        return layer(inputs, training=False) if layer is inner else layer(inputs)
    finally:
        inner.activation = own
