"""Recurrent layers: what their inputs give, and the steps in which their state moves.

What the inputs give is one matrix product for all steps; what the state gives is one
for each step, with the same kernel. See `recurrent_steps.py` for how they are run.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.errors import warn
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.expansions.activations import KNOWN
from tfcompress.quantization.expansions.base import expansion
from tfcompress.quantization.recurrent_steps import RecurrentSteps

# `(inputs of the step, state, number of the step) -> state`; a state that nobody gives
# is None, and the last output of a state is its first entry.
Step = Callable[[Any, Any, int], tuple]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """A cell, and how a recurrent layer runs it."""

    name: str
    cell: Any
    dtype_policy: Any
    return_sequences: bool
    return_state: bool
    go_backwards: bool
    zero_output_for_mask: bool

    @classmethod
    def of(cls, layer: Any, **changes: Any) -> _Cells:
        values = {one.name: getattr(layer, one.name) for one in dataclasses.fields(cls)}
        return cls(**{**values, **changes})


class _Kind:
    """What one kind of cell computes; built for one call of its layer."""

    def __init__(self, cell: Any, parts: Parts):
        self.cell, self.parts, self.units = cell, parts, cell.units
        self.order: Any = slice(None)

    def recurrent(self) -> dict[str, Any]:
        """Returns which columns each matrix that the state is multiplied with has."""
        return {"_recurrent": self.order}

    def step(self, given: Any, state: Any, at: int) -> tuple:
        raise NotImplementedError

    def dense(self, state: Any, suffix: str = "_recurrent") -> Any:
        return self.parts(layers.Dense, suffix)(state)

    def times(self, suffix: str, left: Any, right: Any) -> Any:
        return self.parts(layers.Multiply, suffix)([left, right])

    def plus(self, suffix: str, left: Any, right: Any) -> Any:
        return self.parts(layers.Add, suffix)([left, right])

    def activated(self, x: Any, suffix: str) -> Any:
        return _activated(self.parts, self.cell.activation, x, f"_activated{suffix}")

    def gates(self, x: Any, at: int) -> Any:
        function = self.cell.recurrent_activation
        return _activated(self.parts, function, x, f"_gates_{at}")


class _LSTM(_Kind):
    """Source: Hochreiter and Schmidhuber, 1997, with a forget gate."""

    def __init__(self, cell: Any, parts: Parts):
        super().__init__(cell, parts)
        # Input, forget and output gate side by side: one sigmoid for the three.
        units = self.units
        self.order = np.r_[0 : 2 * units, 3 * units : 4 * units, 2 * units : 3 * units]

    def step(self, given: Any, state: Any, at: int) -> tuple:
        units = self.units
        if state is not None:
            given = self.plus(f"_sum_{at}", given, self.dense(state[0]))
        gates = self.gates(given[:, : 3 * units], at)
        new = self.activated(given[:, 3 * units :], f"_new_{at}")
        carry = self.times(f"_new_{at}", gates[:, :units], new)
        if state is not None:
            kept = self.times(f"_kept_{at}", gates[:, units : 2 * units], state[1])
            carry = self.plus(f"_carry_{at}", kept, carry)
        out = self.activated(carry, f"_carry_{at}")
        return self.times(f"_state_{at}", gates[:, 2 * units :], out), carry


class _GRU(_Kind):
    """Source: Cho et al., 2014; the reset gate before the product, or after it."""

    def recurrent(self) -> dict[str, Any]:
        if self.cell.reset_after:
            return super().recurrent()
        edge = 2 * self.units
        return {"_recurrent": slice(edge), "_candidate": slice(edge, None)}

    def step(self, given: Any, state: Any, at: int) -> tuple:
        units, edge, after = self.units, 2 * self.units, self.cell.reset_after
        bias = None
        if after and self.cell.use_bias:
            bias = ops.convert_to_numpy(self.cell.bias)[1]
        both, new = given[:, :edge], given[:, edge:]
        if state is not None:
            product = self.dense(state[0])
            both = self.plus(f"_sum_{at}", both, product[:, :edge])
        elif bias is not None:
            both = both + bias[:edge]
        gates = self.gates(both, at)
        update, reset = gates[:, :units], gates[:, units:]
        if state is not None:
            if after:
                past = self.times(f"_reset_{at}", reset, product[:, edge:])
            else:
                left = self.times(f"_reset_{at}", reset, state[0])
                past = self.dense(left, "_candidate")
            new = self.plus(f"_new_{at}", new, past)
        elif bias is not None:
            new = self.plus(f"_new_{at}", new, reset * bias[edge:])
        new = self.activated(new, f"_new_{at}")
        minus = self.parts(layers.Subtract, f"_change_{at}")
        if state is None:
            return (minus([new, self.times(f"_kept_{at}", update, new)]),)
        kept = self.times(f"_kept_{at}", update, minus([state[0], new]))
        return (self.plus(f"_state_{at}", new, kept),)


class _Simple(_Kind):
    """`tanh(W x + U h + b)`."""

    def step(self, given: Any, state: Any, at: int) -> tuple:
        if state is not None:
            given = self.plus(f"_sum_{at}", given, self.dense(state[0]))
        return (self.activated(given, f"_state_{at}"),)


_KINDS = {
    layers.LSTMCell: (_LSTM, 2),
    layers.GRUCell: (_GRU, 1),
    layers.SimpleRNNCell: (_Simple, 1),
}


@expansion(layers.RNN, layers.LSTM, layers.GRU, layers.SimpleRNN)
def recurrent(
    layer: Any, parts: Parts, x: Any, initial_state: Any = None, **options: Any
) -> Any:
    """A layer that runs a cell, or cells upon each other."""
    _check(layer, x)
    mask = options.get("mask")
    if not isinstance(layer.cell, layers.StackedRNNCells):
        return _in_steps(_Cells.of(layer), parts, x, _listed(initial_state), mask)
    if initial_state is not None or layer.return_state:
        raise StaysFloat(
            "the states of several cells come from outside, or go there",
            "use a layer for each cell, such as LSTM(8, return_state=True)",
        )
    if mask is not None and layer.go_backwards:
        raise StaysFloat(
            "it has a mask and goes backwards", "use a layer for each of its cells"
        )
    last = len(layer.cell.cells) - 1
    for number, cell in enumerate(layer.cell.cells):
        cells = _Cells.of(
            layer,
            name=f"{layer.name}_{number}",
            cell=cell,
            return_sequences=layer.return_sequences or number < last,
            go_backwards=layer.go_backwards and not number,
            zero_output_for_mask=layer.zero_output_for_mask and number == last,
        )
        inner = parts.inner.setdefault(cells.name, Parts(cells))
        x = _in_steps(cells, inner, x, None, mask)
    return x


@expansion(layers.Bidirectional)
def bidirectional(
    layer: Any, parts: Parts, x: Any, initial_state: Any = None, **options: Any
) -> Any:
    """Two layers, one of which reads the sequence from its end."""
    both = layer.forward_layer, layer.backward_layer
    for one in both:
        _check(one, x)
        if isinstance(one.cell, layers.StackedRNNCells):
            raise StaysFloat("it holds several cells", "use a Bidirectional for each")
    if layer.forward_layer.go_backwards:
        raise StaysFloat(
            "its forward layer has go_backwards=True",
            "let the forward layer go forwards, and the backward layer backwards",
        )
    given = _listed(initial_state) or []
    half = len(given) // 2
    made = []
    for one, states in zip(both, (given[:half], given[half:])):
        own = parts.inner.setdefault(one.name, Parts(one))
        cells = _Cells.of(one)
        made.append(_in_steps(cells, own, x, states or None, options.get("mask"), True))
    ends: list = []
    if layer.return_state:
        ends = [state for one in made for state in one[1:]]
        made = [one[0] for one in made]
    merges = {"sum": layers.Add, "mul": layers.Multiply, "ave": layers.Average}
    if layer.merge_mode is None:
        return (*made, *ends) if ends else made
    merge = merges.get(layer.merge_mode, layers.Concatenate)
    merged = parts(merge)(made)
    return (merged, *ends) if ends else merged


def _listed(states: Any) -> list | None:
    if states is None:
        return None
    states = list(states) if isinstance(states, (list, tuple)) else [states]
    if not all(isinstance(state, keras.KerasTensor) for state in states):
        raise StaysFloat(
            "its initial state is a constant", "use an Input, or a layer's output"
        )
    return states


def _activated(parts: Parts, function: Any, x: Any, suffix: str) -> Any:
    name = getattr(function, "__name__", "")
    if name == "linear":
        return x
    if name in ("tanh", "sigmoid"):
        return getattr(ops, name)(x)
    return parts(layers.Activation, suffix, activation=name)(x)


def _in_steps(
    cells: _Cells,
    parts: Parts,
    x: Any,
    initial: list | None,
    mask: Any,
    in_time_order: bool = False,
) -> Any:
    """Returns the outputs of a recurrent layer."""
    cell = cells.cell
    make_kind, states = _KINDS[_type_of(cell)]
    inner = parts.inner.setdefault("steps", Parts(cells))
    kind = make_kind(cell, inner)
    kernel, matrix, *bias = map(ops.convert_to_numpy, _weights(cell))
    order = kind.order
    inside = [b[1] for b in bias if b.ndim == 2]
    outside = [(b[0] if b.ndim == 2 else b)[order] for b in bias]
    if cell.dropout:
        shape = (None, 1, x.shape[-1])  # the same inputs at every step
        x = parts(layers.Dropout, "_dropout", rate=cell.dropout, noise_shape=shape)(x)
    given = parts(
        layers.Dense,
        "_inputs",
        weights=[kernel[:, order], *outside],
        units=kernel.shape[-1],
        use_bias=bool(outside),
        kernel_regularizer=cell.kernel_regularizer,
    )(x)
    # Made once; all steps call them by their names.
    for suffix, columns in kind.recurrent().items():
        own = [matrix[:, columns], *(b[columns] for b in inside)]
        inner(
            layers.Dense,
            suffix,
            weights=own,
            units=own[0].shape[-1],
            use_bias=bool(inside),
            kernel_regularizer=cell.recurrent_regularizer,
        ).build((None, cell.units))
    model = _two_steps(
        kind, states, kernel.shape[-1], mask is not None, cells, initial is not None
    )
    steps = RecurrentSteps(
        model,
        states,
        cells.return_sequences,
        cells.go_backwards,
        in_time_order,
        given_states=initial is not None,
        return_state=cells.return_state,
        name=cells.name,
        dtype=cells.dtype_policy,
    )
    made = parts.add(steps, model.get_weights())
    return made(given, mask=mask, initial_state=initial)


def _weights(cell: Any) -> list:
    return [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]


def _two_steps(
    kind: _Kind,
    states: int,
    width: int,
    masked: bool,
    cells: _Cells,
    with_initial: bool,
) -> keras.Model:
    """Returns a model of the first and a later step.

    Its last outputs only say which tensors share a range: those that are the same
    state at different steps.
    """
    given = [keras.Input((width,)) for _ in range(2)]
    seen = [keras.Input((1,), dtype="bool") for _ in given] if masked else []
    hidden = cells.zero_output_for_mask
    before = [keras.Input((kind.units,)) for _ in range(states)]
    initial = [keras.Input((kind.units,)) for _ in range(states * with_initial)]
    # Rounded to the step of the state, whatever step they come with.
    start = [
        kind.parts(layers.Rescaling, f"_initial_{number}", scale=1.0)(state)
        for number, state in enumerate(initial)
    ]

    def one(at: int, state: Any) -> list:
        new = list(kind.step(given[at], state, at))
        if not masked:
            return [*new, new[0]]
        old = [0.0] * len(new) if state is None else state
        new = [ops.where(seen[at], *pair) for pair in zip(new, old)]
        return [*new, ops.where(seen[at], new[0], 0.0) if hidden else new[0]]

    first, later = one(0, start or None), one(1, before)
    shared = [
        ops.stack(
            [*pair, *([old] if masked else []), *([begin] if begin is not None else [])]
        )
        for *pair, old, begin in itertools.zip_longest(
            first[:-1], later[:-1], before, start
        )
    ]
    if hidden:
        shared.append(ops.stack([first[-1], later[-1]]))
    read = [*given, *before, *initial, *seen]
    return keras.Model(read, [*first, *later, *shared])


def _type_of(cell: Any) -> type | None:
    """Returns which of Keras' cells a cell computes as, `None` for none of them."""
    for kind in _KINDS:
        if isinstance(cell, kind):
            return kind if type(cell).call is kind.call else None
    return None


def _check(layer: Any, x: Any) -> None:
    stacked = isinstance(layer.cell, layers.StackedRNNCells)
    cells = layer.cell.cells if stacked else [layer.cell]
    for cell in cells:
        if _type_of(cell) is None:
            raise StaysFloat(
                f"its cell is a {type(cell).__name__}",
                "use LSTMCell, GRUCell or SimpleRNNCell",
            )
        for name in ("activation", "recurrent_activation"):
            function = getattr(cell, name, keras.activations.linear)
            if getattr(function, "__name__", None) not in KNOWN:
                raise StaysFloat(
                    f"LiteRT has no integer kernel for its {name} "
                    f"'{getattr(function, '__name__', function)}'",
                    f"use one of {', '.join(sorted(KNOWN))}",
                )
    if layer.stateful:
        raise StaysFloat(
            "it is stateful: its state stays in the layer, where no integers are",
            "let the application keep the state: use return_state=True, and give "
            "the state back as initial_state",
        )
    if x.shape[1] is None:
        raise StaysFloat(
            "the length of its sequences is free",
            "give the Input a fixed length, such as keras.Input((64, 8))",
        )
    if any(cell.recurrent_dropout for cell in cells):
        warn(
            f"'{layer.name}' has recurrent_dropout, which does nothing in a "
            "quantization-aware model. To go on training with noise, use dropout."
        )
