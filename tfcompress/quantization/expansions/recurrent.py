"""Recurrent layers: what their inputs give, and the steps in which their state moves.

What the inputs give is one matrix product for all steps; what the state gives is one
for each step, with the same kernel. See `recurrent_steps.py` for how they are run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.expansions.base import Parts, StaysFloat, expansion
from tfcompress.quantization.recurrent_steps import RecurrentSteps

# `(parts, inputs of the step, state, number of the step) -> state`; the first state is
# None, and the last output of a state is its first entry.
Step = Callable[[Parts, Any, Any, int], tuple]


@expansion(layers.LSTM)
def lstm(layer: Any, parts: Parts, x: Any, **options: Any) -> Any:
    """Source: Hochreiter and Schmidhuber, 1997, with a forget gate."""
    units = layer.units
    # Input, forget and output gate side by side: one sigmoid for the three.
    order = np.r_[0 : 2 * units, 3 * units : 4 * units, 2 * units : 3 * units]

    def step(parts: Parts, given: Any, state: Any, at: int) -> tuple:
        if state is not None:
            recurrent = parts(layers.Dense, "_recurrent")(state[0])
            given = parts(layers.Add, f"_sum_{at}")([given, recurrent])
        gates = ops.sigmoid(given[:, : 3 * units])
        new = ops.tanh(given[:, 3 * units :])
        carry = _times(parts, f"_new_{at}", gates[:, :units], new)
        if state is not None:
            kept = _times(parts, f"_kept_{at}", gates[:, units : 2 * units], state[1])
            carry = parts(layers.Add, f"_carry_{at}")([kept, carry])
        output = gates[:, 2 * units :]
        return _times(parts, f"_state_{at}", output, ops.tanh(carry)), carry

    return _in_steps(layer, parts, x, options, order, step)


@expansion(layers.GRU)
def gru(layer: Any, parts: Parts, x: Any, **options: Any) -> Any:
    """Source: Cho et al., 2014; the reset gate after the product, as in cuDNN."""
    units, bias = layer.units, None
    if not layer.reset_after:
        raise StaysFloat("it has reset_after=False", "use reset_after=True")
    if layer.use_bias:
        bias = layer.get_weights()[2][1]

    def step(parts: Parts, given: Any, state: Any, at: int) -> tuple:
        both, new = given[:, : 2 * units], given[:, 2 * units :]
        if state is not None:
            recurrent = parts(layers.Dense, "_recurrent")(state[0])
            both = parts(layers.Add, f"_sum_{at}")([both, recurrent[:, : 2 * units]])
        elif bias is not None:
            both = both + bias[: 2 * units]
        gates = ops.sigmoid(both)
        update, reset = gates[:, :units], gates[:, units:]
        if state is not None:
            past = _times(parts, f"_reset_{at}", reset, recurrent[:, 2 * units :])
            new = parts(layers.Add, f"_new_{at}")([new, past])
        elif bias is not None:
            new = parts(layers.Add, f"_new_{at}")([new, reset * bias[2 * units :]])
        new = ops.tanh(new)
        if state is None:
            old = _times(parts, f"_kept_{at}", update, new)
            return (parts(layers.Subtract, f"_state_{at}")([new, old]),)
        change = parts(layers.Subtract, f"_change_{at}")([state[0], new])
        kept = _times(parts, f"_kept_{at}", update, change)
        return (parts(layers.Add, f"_state_{at}")([new, kept]),)

    return _in_steps(layer, parts, x, options, None, step)


@expansion(layers.SimpleRNN)
def simple_rnn(layer: Any, parts: Parts, x: Any, **options: Any) -> Any:
    """`tanh(W x + U h + b)`."""

    def step(parts: Parts, given: Any, state: Any, at: int) -> tuple:
        if state is not None:
            recurrent = parts(layers.Dense, "_recurrent")(state[0])
            given = parts(layers.Add, f"_sum_{at}")([given, recurrent])
        return (ops.tanh(given),)

    return _in_steps(layer, parts, x, options, None, step)


@expansion(layers.Bidirectional)
def bidirectional(layer: Any, parts: Parts, x: Any, **options: Any) -> Any:
    """Two layers, one of which reads the sequence from its end."""
    known = {layers.LSTM: lstm, layers.GRU: gru, layers.SimpleRNN: simple_rnn}
    function = known.get(type(layer.forward_layer))
    if function is None or type(layer.backward_layer) is not type(layer.forward_layer):
        raise StaysFloat(
            f"it holds a {type(layer.forward_layer).__name__} and a "
            f"{type(layer.backward_layer).__name__}",
            "use two LSTM, two GRU or two SimpleRNN layers",
        )
    both = []
    for one in (layer.forward_layer, layer.backward_layer):
        own = parts.inner.setdefault(one.name, Parts(one))
        both.append(function(one, own, x, **options, in_time_order=True))
    if layer.merge_mode == "concat":
        return parts(layers.Concatenate)(both)
    merges = {"sum": layers.Add, "mul": layers.Multiply, "ave": layers.Average}
    merge = merges.get(layer.merge_mode)
    return parts(merge)(both) if merge else both


def _times(parts: Parts, suffix: str, left: Any, right: Any) -> Any:
    return parts(layers.Multiply, suffix)([left, right])


def _in_steps(
    layer: Any, parts: Parts, x: Any, options: dict, order: Any, step: Step
) -> Any:
    """Returns the outputs of a recurrent layer."""
    _check(layer, x, options)
    mask = options.get("mask")
    kernel, recurrent, *bias = layer.get_weights()
    order = slice(None) if order is None else order
    inside = [b[1][order] for b in bias if b.ndim == 2]
    outside = [(b[0] if b.ndim == 2 else b)[order] for b in bias]
    cell = layer.cell
    if layer.dropout:
        shape = (None, 1, x.shape[-1])  # the same inputs at every step
        x = parts(layers.Dropout, "_dropout", rate=layer.dropout, noise_shape=shape)(x)
    given = parts(
        layers.Dense,
        "_inputs",
        weights=[kernel[:, order], *outside],
        units=kernel.shape[-1],
        use_bias=bool(outside),
        kernel_regularizer=cell.kernel_regularizer,
    )(x)
    inner = parts.inner.setdefault("steps", Parts(layer))
    # Made once; both steps call it by its name.
    inner(
        layers.Dense,
        "_recurrent",
        weights=[recurrent[:, order], *inside],
        units=kernel.shape[-1],
        use_bias=bool(inside),
        kernel_regularizer=cell.recurrent_regularizer,
    ).build((None, layer.units))
    model, states = _two_steps(layer, inner, step, kernel.shape[-1], mask is not None)
    steps = RecurrentSteps(
        model,
        states,
        layer.return_sequences,
        layer.go_backwards,
        bool(options.get("in_time_order")),
        name=layer.name,
        dtype=layer.dtype_policy,
    )
    return parts.add(steps, model.get_weights())(given, mask=mask)


def _two_steps(
    layer: Any, parts: Parts, step: Step, width: int, masked: bool
) -> tuple[keras.Model, int]:
    """Returns a model of the first and a later step, and the number of states.

    Its last outputs only say which tensors share a range: those that are the same
    state at different steps.
    """
    given = [keras.Input((width,)) for _ in range(2)]
    seen = [keras.Input((1,), dtype="bool") for _ in given] if masked else []
    hidden = getattr(layer, "zero_output_for_mask", False)

    def one(at: int, state: Any) -> list:
        new = list(step(parts, given[at], state, at))
        if not masked:
            return [*new, new[0]]
        old = [0.0] * len(new) if state is None else state
        new = [ops.where(seen[at], *pair) for pair in zip(new, old)]
        return [*new, ops.where(seen[at], new[0], 0.0) if hidden else new[0]]

    first = one(0, None)
    states = [keras.Input((layer.units,)) for _ in first[1:]]
    later = one(1, states)
    shared = [
        ops.stack([*pair, *([before] if masked else [])])
        for *pair, before in zip(first, later, states)
    ]
    if hidden:
        shared.append(ops.stack([first[-1], later[-1]]))
    read = [*given, *states, *seen]
    return keras.Model(read, [*first, *later, *shared]), len(states)


def _check(layer: Any, x: Any, options: dict) -> None:
    if options.get("initial_state") is not None or layer.return_state or layer.stateful:
        raise StaysFloat(
            "its state comes from outside, or goes there",
            "use it without initial_state, return_state and stateful",
        )
    if layer.recurrent_dropout:
        raise StaysFloat("it has recurrent_dropout", "use dropout instead")
    gate = getattr(layer, "recurrent_activation", None)
    names = activation_name(layer), getattr(gate, "__name__", "sigmoid")
    if names != ("tanh", "sigmoid"):
        raise StaysFloat(
            f"its activations are {names[0]} and {names[1]}",
            "use tanh, and sigmoid as recurrent_activation",
        )
    if x.shape[1] is None:
        raise StaysFloat(
            "the length of its sequences is free",
            "give the Input a fixed length, such as keras.Input((64, 8))",
        )
