"""How channels flow through recurrence, attention, einsums and wrappers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from tfcompress.channels import nested
from tfcompress.channels.call import Call, Count, fixed, flow, flow_of
from tfcompress.core.equation import Equation
from tfcompress.core.graph import Tensor, is_graph_model

_RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN)
_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)


@flow(layers.LSTM, layers.GRU, layers.SimpleRNN)
def recurrent(call: Call) -> None:
    """LSTM, GRU, SimpleRNN: a unit is a column in each gate and a row of the state."""
    layer = call.layer
    call.fix_other_axes(2, f"is a time axis of {call.label}")
    made = call.ids.fresh(layer.units)
    _recurrent_weights(call, layer.cell, made)
    call.resize(lambda count: {"units": count(made)}, made)
    _recurrent_outputs(call, [made])
    _initial_states(call, made)


def _recurrent_weights(
    call: Call, cell: Any, made: np.ndarray, inner: np.ndarray | None = None
) -> None:
    """Says where the units of a cell are, which reads the layer's input or `inner`."""
    gates = cell.kernel.shape[-1] // cell.units
    columns = np.tile(made, gates)
    source, tensor = inner, None
    if inner is None:
        source, tensor = call.inputs[0].get(2), call.node.inputs[0]
    call.weight(cell.kernel, {0: source}, "input", tensor)
    call.weight(cell.kernel, {1: columns}, "output", rounded=False)
    call.weight(cell.recurrent_kernel, {0: made}, "input", call.output_tensors[0])
    call.weight(cell.recurrent_kernel, {1: columns}, "channel")
    call.weight(cell.bias, {-1: columns}, "channel")


@flow(layers.RNN)
def cells(call: Call) -> None:
    """RNN with a cell of an LSTM, GRU or SimpleRNN, or with several, one on another."""
    layer = call.layer
    stacked = isinstance(layer.cell, layers.StackedRNNCells)
    inner = list(layer.cell.cells) if stacked else [layer.cell]
    if not all(isinstance(cell, _CELLS) for cell in inner):
        fixed(call)
        return
    call.fix_other_axes(2, f"is a time axis of {call.label}")
    made = [call.ids.fresh(cell.units) for cell in inner]
    for position, cell in enumerate(inner):
        below = made[position - 1] if position else None
        _recurrent_weights(call, cell, made[position], below)

    def update(count: Count) -> dict:
        config = layer.get_config()["cell"]
        if not stacked:
            return {"cell": _with_inner(config, {"units": count(made[0])})}
        parts = config["config"]["cells"]
        parts = [
            _with_inner(part, {"units": count(units)})
            for part, units in zip(parts, made)
        ]
        return {"cell": _with_inner(config, {"cells": parts})}

    call.resize(update, *made)
    call.outputs[0] = {len(call.output_tensors[0].shape) - 1: made[-1]}
    states = [
        units
        for cell, units in zip(inner, made)
        for _ in range(2 if isinstance(cell, layers.LSTMCell) else 1)
    ]
    for index, units in enumerate(states[: len(call.outputs) - 1]):
        call.outputs[1 + index] = {1: units}
    if sum(tensor.dtype != "bool" for tensor in call.node.inputs) > 1:
        for units in made:
            call.fix(units, f"starts from a given state in {call.label}")


def _recurrent_outputs(call: Call, made: list[np.ndarray]) -> None:
    """The sequence (or its end) first, then the states, direction by direction."""
    states = len(call.output_tensors) - 1
    sequence = np.concatenate(made)
    call.outputs[0] = {len(call.output_tensors[0].shape) - 1: sequence}
    for i in range(states):
        call.outputs[1 + i] = {1: made[i * len(made) // states]}


def _initial_states(call: Call, made: np.ndarray) -> None:
    for index in range(1, len(call.inputs)):
        if call.node.inputs[index].dtype == "bool":
            continue
        members = call.inputs[index].get(1)
        if members is not None and len(members) == len(made):
            call.ids.tie(made, members)
        else:
            call.fix(made, f"starts from a state of unknown channels in {call.label}")


@flow(layers.Bidirectional)
def bidirectional(call: Call) -> None:
    """Two recurrent layers; both directions lose the same units."""
    layer = call.layer
    forward, backward = layer.forward_layer, layer.backward_layer
    known = isinstance(forward, _RECURRENT) and type(forward) is type(backward)
    if not known or layer.merge_mode is None:
        fixed(call)
        return
    call.fix_other_axes(2, f"is a time axis of {call.label}")
    made = [call.ids.fresh(forward.units) for _ in range(2)]
    call.ids.tie(*made)
    for inner, members in zip((forward, backward), made):
        _recurrent_weights(call, inner.cell, members)

    def update(count: Count) -> dict:
        config = layer.get_config()
        return {
            key: _with_inner(config[key], {"units": count(made[0])})
            for key in ("layer", "backward_layer")
            if key in config
        }

    call.resize(update, made[0])
    _recurrent_outputs(call, made)
    if layer.merge_mode != "concat":
        call.outputs[0] = {len(call.output_tensors[0].shape) - 1: made[0]}
    for index in range(1, len(call.inputs)):
        if call.node.inputs[index].dtype != "bool":
            call.fix(made[0], f"starts from a given state in {call.label}")


def _with_inner(serialized: dict, changes: dict) -> dict:
    return {**serialized, "config": {**serialized["config"], **changes}}


@flow(layers.TimeDistributed)
def time_distributed(call: Call) -> None:
    """The wrapped layer's own rule, at every time step."""
    layer = call.layer
    if is_graph_model(layer.layer):
        nested.model_at_each_step(call)
        return

    def without_time(tensor: Tensor) -> Tensor:
        return dataclasses.replace(tensor, shape=(tensor.shape[0], *tensor.shape[2:]))

    inner_node = dataclasses.replace(
        call.node,
        operation=layer.layer,
        args=(without_time(call.node.inputs[0]),),
        kwargs={},
        outputs=without_time(call.output_tensors[0]),
    )
    call.fix(call.inputs[0].get(1), f"is a time axis of {call.label}")
    shifted = {a - 1: i for a, i in call.inputs[0].items() if a > 1}
    inner = Call(inner_node, call.ids, [shifted])
    flow_of(layer.layer)(inner)
    for site in inner.sites:
        site.operation = layer
        site.tensor = call.node.inputs[0] if site.tensor is not None else None
        call.sites.append(site)
    for members, update in inner.resizes:

        def wrapped(count: Count, update: Any = update) -> dict:
            config = layer.get_config()["layer"]
            return {"layer": _with_inner(config, update(count))}

        call.resize(wrapped, *members)
    call.outputs[0] = {a + 1: i for a, i in inner.outputs[0].items()}


@flow(layers.MultiHeadAttention)
def attention(call: Call) -> None:
    """MultiHeadAttention: whole heads go; `key_dim` only where there is one head."""
    layer = call.layer
    weights = {"/".join(v.path.split("/")[-2:]): v for v in layer.weights}
    if "query/kernel" not in weights or any(k.startswith("gate/") for k in weights):
        fixed(call)
        return
    sources = _attention_sources(call)
    heads = call.ids.fresh(layer.num_heads)
    made = call.ids.fresh(weights["attention_output/kernel"].shape[-1])
    for part in ("query", "key", "value"):
        tensor, axes = sources[part]
        last = len(tensor.shape) - 1
        for axis, members in axes.items():
            if axis != last:
                call.fix(members, f"is attended over by {call.label}")
        call.weight(weights[f"{part}/kernel"], {0: axes.get(last)}, "input", tensor)
        size = weights[f"{part}/kernel"].shape[-1]
        kernel = weights[f"{part}/kernel"]
        call.weight(kernel, {1: heads}, "output", width=size, rounded=False)
        call.weight(weights.get(f"{part}/bias"), {0: heads}, "channel", width=size)
    output = weights["attention_output/kernel"]
    call.weight(output, {0: heads}, "input", width=output.shape[1])
    call.weight(output, {-1: made}, "output")
    call.weight(weights.get("attention_output/bias"), {0: made}, "channel")
    call.resize(
        lambda count: {"num_heads": count(heads), "output_shape": count(made)},
        heads,
        made,
    )
    call.outputs[0] = {len(call.output_tensors[0].shape) - 1: made}
    if len(call.outputs) > 1:
        call.fix(heads, f"is returned as attention scores by {call.label}")


def _attention_sources(call: Call) -> dict[str, tuple[Tensor, dict]]:
    names = ("query", "value", "key")
    given = dict(zip(names, call.node.args))
    given.update({n: call.node.kwargs[n] for n in names if n in call.node.kwargs})
    if given.get("key") is None:
        given["key"] = given["value"]
    axes_of = dict(zip(map(id, call.node.inputs), call.inputs))
    return {name: (tensor, axes_of[id(tensor)]) for name, tensor in given.items()}


@flow(layers.EinsumDense)
def einsum_dense(call: Call) -> None:
    """EinsumDense: every letter of the equation is an axis; shared letters agree."""
    layer = call.layer
    equation = Equation.of(layer.equation)
    equation = equation.spelled((call.rank(), len(layer.kernel.shape)))
    (source, kernel), target = equation.terms, equation.target
    found = {name: call.inputs[0].get(a) for a, name in enumerate(source)}
    sizes = dict(zip(kernel, layer.kernel.shape))
    fresh = {n: call.ids.fresh(sizes[n]) for n in kernel if n not in source}
    for axis, name in enumerate(kernel):
        if name in fresh:
            call.weight(layer.kernel, {axis: fresh[name]}, "output")
        elif name in target:
            call.weight(layer.kernel, {axis: found[name]}, "channel")
        else:
            tensor = call.node.inputs[0]
            call.weight(layer.kernel, {axis: found[name]}, "input", tensor)
    for name, members in found.items():
        if name not in target and name not in kernel:
            call.fix(members, f"is summed over by {call.label}")
    members_of = {**{n: i for n, i in found.items() if i is not None}, **fresh}
    axes = {a: members_of[n] for a, n in enumerate(target) if n in members_of}
    call.outputs[0] = {a: i for a, i in axes.items() if a > 0}
    call.activation(call.outputs[0].get(len(target) - 1))
    if layer.bias is not None:
        # The bias has the letters of `bias_axes`, each at its place in the output.
        letters = [n for n in target if n in layer.bias_axes]
        for axis, size in enumerate(layer.bias.shape):
            offset = len(layer.bias.shape) - len(letters)
            owner = letters[axis - offset] if axis >= offset else None
            members = members_of.get(owner) if owner else None
            if members is not None and size == len(members):
                call.weight(layer.bias, {axis: members}, "channel")

    def update(count: Count) -> dict:
        wanted = layer.get_config()["output_shape"]
        sizes = [wanted] if isinstance(wanted, int) else list(wanted)
        offset = len(target) - len(sizes)
        for axis, members in axes.items():
            if axis >= offset and sizes[axis - offset] is not None:
                sizes[axis - offset] = count(members)
        return {"output_shape": sizes[0] if isinstance(wanted, int) else tuple(sizes)}

    call.resize(update, *axes.values())


@flow(operations="Matmul Einsum")
def contraction(call: Call) -> None:
    """`keras.ops.matmul` and `einsum` of two tensors of the graph."""
    tensors = call.node.inputs
    ranks = [len(t.shape) for t in tensors]
    subscripts = getattr(call.layer, "subscripts", None)
    if len(tensors) != 2 or min(ranks) < 2:
        call.fix_all(f"is contracted by {call.label}")
        return
    if subscripts is None:
        batch = [str(i) for i in range(max(ranks) - 2, 0, -1)]
        terms: list[Sequence[str]] = [
            [*batch[len(batch) - ranks[0] + 2 :], "i", "k"],
            [*batch[len(batch) - ranks[1] + 2 :], "k", "j"],
            [*batch, "i", "j"],
        ]
    else:
        equation = Equation.of(subscripts).spelled(ranks)
        terms = [*equation.terms, equation.target]
    members_of: dict[str, np.ndarray] = {}
    unknown = set()
    for term, axes in zip(terms, call.inputs):
        for axis, name in enumerate(term):
            members = axes.get(axis)
            if members is None:
                unknown.add(name)
            elif name not in members_of:
                members_of[name] = members
            elif len(members) == len(members_of[name]):
                call.ids.tie(members_of[name], members)
            else:
                call.fix(members, f"is broadcast by {call.label}")
                call.fix(members_of[name], f"is broadcast by {call.label}")
    for name, members in members_of.items():
        # What the other operand has along the same letter must be known too.
        if name in unknown and sum(name in term for term in terms[:2]) == 2:
            call.fix(members, f"is contracted with unknown channels by {call.label}")
    for name in set(members_of) - set(terms[2]):
        # Without kernels there is nothing that shows a channel to be unread.
        call.ids.mix(members_of[name])
    call.outputs[0] = {
        a: members_of[n] for a, n in enumerate(terms[2]) if n in members_of and a > 0
    }
