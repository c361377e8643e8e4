"""LSTM, GRU and simple recurrent layers, in one direction or in both."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value

_LAYERS = {"LSTM": layers.LSTM, "GRU": layers.GRU, "RNN": layers.SimpleRNN}
# Where Keras' gates are among those of ONNX: input, output, forget, cell.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (0, 1, 2), "RNN": (0,)}
_ACTIVATIONS = {
    "LSTM": ["sigmoid", "tanh", "tanh"],
    "GRU": ["sigmoid", "tanh"],
    "RNN": ["tanh"],
}


@operator("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> list[Value | None]:
    kind, value = call.node.kind, call.value()
    kernels, size = call.constant(1), int(call.attribute("hidden_size"))
    direction = call.attribute("direction", "forward")
    _check(call, value, kernels)
    weights = [one for d in range(len(kernels)) for one in _weights(call, d, size)]
    config = _config(call, size)
    steps, batch, _ = value.shape
    tensor = value.laid((1, 0, 2))
    both = direction == "bidirectional"
    if both:
        if _states(call, batch, size):
            raise Refused("states at the beginning in both directions", "zeros")
        config["name"] = kind.lower()
        made = call.weighted(
            layers.Bidirectional, tensor, weights, layer=_LAYERS[kind](**config)
        )
    else:
        config["go_backwards"] = direction == "reverse"
        states = _states(call, batch, size)
        made = call.weighted(
            _LAYERS[kind],
            tensor,
            weights,
            called={"initial_state": states} if states else {},
            **config,
        )
    return _outputs(call, made, config, (steps, batch, 2 if both else 1, size))


def _check(call: Call, value: Value, kernels: np.ndarray) -> None:
    if value.rank != 3 or value.shape[0] % call.batch == 0:
        raise Refused(
            f"the axis of time holds the samples (shape {value.shape})",
            "samples along an axis whose size is free: dynamic_axes={'x': {0: 'batch'}}"
            " with batch_first=True, or {1: 'batch'} without",
        )
    if value.shape[1] != call.batch:
        raise Refused(f"samples that are joined with others ({value.shape})", "samples")
    for option, only in (("layout", 0), ("input_forget", 0), ("clip", None)):
        if call.attribute(option, only) != only:
            raise Refused(f"{option}={call.attribute(option)}", f"{option}={only}")
    found = _activations(call)
    wanted = _ACTIVATIONS[call.node.kind] * len(kernels)
    if call.node.kind == "RNN" and found[:1] == ["relu"]:
        wanted = ["relu"] * len(kernels)
    if found and found != wanted:
        raise Refused(f"activations {found}", f"{wanted}")
    lengths = call.constant(4, None)
    if lengths is not None and np.any(lengths != value.shape[0]):
        raise Refused("sequence_lens", "sequences of one length")
    if call.given(7):
        raise Refused("peepholes", "none")


def _activations(call: Call) -> list[str]:
    given = call.attribute("activations", [])
    return [(a.decode() if isinstance(a, bytes) else a).lower() for a in given]


def _weights(call: Call, direction: int, size: int) -> list[np.ndarray]:
    kind = call.node.kind
    gates = _GATES[kind]
    kernel, inner = call.constant(1)[direction], call.constant(2)[direction]
    biases = call.constant(3, None)

    def ordered(rows: np.ndarray) -> np.ndarray:
        parts = rows.reshape(len(gates), size, *rows.shape[1:])
        return parts[list(gates)].reshape(rows.shape)

    found = [ordered(kernel).T, ordered(inner).T]
    if biases is not None:
        outer, recurrent_bias = (ordered(b) for b in np.split(biases[direction], 2))
        apart = kind == "GRU" and call.attribute("linear_before_reset", 0)
        found.append(
            np.stack([outer, recurrent_bias]) if apart else outer + recurrent_bias
        )
    return found


def _config(call: Call, size: int) -> dict[str, Any]:
    used = (*call.used, False, False)
    config: dict[str, Any] = {
        "units": size,
        "use_bias": call.given(3),
        "return_sequences": used[0],
        "return_state": used[2] or (used[0] and used[1]),
    }
    if call.node.kind == "GRU":
        config["reset_after"] = bool(call.attribute("linear_before_reset", 0))
    if call.node.kind == "RNN" and _activations(call):
        config["activation"] = _activations(call)[0]
    return config


def _states(call: Call, batch: int, size: int) -> list[Any]:
    """Returns the states at the beginning, if they are not zeros."""
    found = []
    for index in (5, 6)[: 2 if call.node.kind == "LSTM" else 1]:
        given = call.inputs[index] if call.given(index) else None
        if isinstance(given, Value):
            if given.shape != (1, batch, size):
                raise Refused(f"states of shape {given.shape}", "one direction")
            found.append(given.reshaped((batch, size)).laid((0, 1)))
        elif given is not None and np.any(given != 0):
            raise Refused("states at the beginning that are constants", "zeros")
    if found and len(found) < (2 if call.node.kind == "LSTM" else 1):
        raise Refused("one state at the beginning", "both, or none")
    return found


def _outputs(
    call: Call, made: Any, config: dict, sizes: tuple[int, int, int, int]
) -> list[Value | None]:
    steps, batch, directions, size = sizes
    made = list(made) if isinstance(made, (list, tuple)) else [made]
    names = call.value().names

    def state(tensor: Any) -> Value:
        """A state is (direction, batch, size) in ONNX."""
        axes = [[1], [0], [2]]
        return Value(tensor, (batch, directions, size), axes, call.name, names)

    found: list[Value | None] = [None, None, None]
    if not config["return_sequences"]:
        found[1] = state(made[0])
    else:
        tensor = made[0]
        if config.get("go_backwards"):
            tensor = ops.flip(tensor, 1)
        axes = [[1], [2], [0], [3]]
        whole = (batch, steps, directions, size)
        found[0] = Value(tensor, whole, axes, call.name, names)
    if config["return_state"]:
        each = (len(made) - 1) // directions
        for place in range(each):
            parts = made[1 + place :: each]
            joined = (
                parts[0]
                if len(parts) == 1
                else (call.layer(layers.Concatenate, parts, "_states", axis=-1))
            )
            found[1 + place] = state(joined)
    return found[: len(call.node.outputs)]
