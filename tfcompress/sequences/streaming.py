"""streaming: a model over whole sequences, as one of a few steps with states."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.core.arguments import integer, one_of
from tfcompress.core.errors import InvalidArgumentError, UnsupportedLayerError
from tfcompress.core.graph import Graph, Node, Tensor, build, trace
from tfcompress.core.samples import distance, run, samples_of
from tfcompress.core.select import walk
from tfcompress.exporters.tracing import tensor_names
from tfcompress.layers import cell
from tfcompress.quantization.fake_quantize import FakeQuantize, rounded_layer
from tfcompress.quantization.time_distributed import SamplesAsSteps
from tfcompress.sequences import rules
from tfcompress.sequences.call import Call, NeedsAll, Steps, Stream, name_of

# Before the first step, integers have no sum that later steps have: a few steps.
_FLOAT_SHARE, _SMALLEST, _STEPS = 1e-4, 1e-6, 8.0
_HALF_SHARE = 0.05
# How many calls are tried against the whole.
_CALLS = 3


def streaming(model: keras.Model, steps: int = 1, begins: bool = False) -> keras.Model:
    """Returns a model of a few steps, which computes what `model` does of a sequence.

    When to use: where samples arrive one after the other (sound, sensors, key strokes)
    and an answer is wanted at once. Each call is given the next steps and the states
    that the call before has returned; nothing is computed twice. It comes before
    `finalize` and `export`.

    Source: a causal layer needs of the past what its kernel reaches back to (van den
    Oord et al., "WaveNet", 2016; for streams Rybakov et al., 2020), a recurrent one its
    state. Zeros are what the padding, or the first state, holds; so all states are
    zeros before the first call.

    Args:
        model: a Functional or Sequential model over sequences `(batch, time, ...)`:
            recurrent layers, causal convolutions, and layers that treat each step on
            its own. A quantization-aware one keeps its ranges. It is not changed.
        steps: how many steps a call is given; where layers skip steps, a multiple of
            that.
        begins: whether to make the model of a first call instead, which is given no
            states. The first step of recurrent layers in integers is another sum than
            the later ones; with this model for the first call, all integers are those
            of the whole sequence. Otherwise zeros as states do.

    Returns:
        A new Functional model. It takes a dict of the inputs, with `steps` steps, and
        of the states ("gru_state"); it returns a dict of the outputs and the states to
        come ("gru_state_next").

    Raises:
        InvalidArgumentError: if the model is finalized, or has no sequence as input.
        UnsupportedLayerError: if layers need more than what they have seen, by name.

    Example:

    >>> whole = keras.Sequential([
    ...     keras.Input((None, 3), name="sound"),
    ...     keras.layers.Conv1D(4, 3, padding="causal", name="conv"),
    ...     keras.layers.GRU(5, name="memory")])
    >>> stream = streaming(whole, steps=2)
    >>> sorted(stream.input), sorted(stream.output)  # doctest: +NORMALIZE_WHITESPACE
    (['conv_state', 'memory_state', 'sound'],
     ['conv_state_next', 'memory', 'memory_state_next'])
    """
    integer(steps, "`steps` is a number of time steps.", low=1)
    one_of(begins, "`begins` is true or false.", (True, False))
    graph = trace(model, "stream the model")
    _refuse_finalized(model)
    stream = Stream(graph, begins)
    names, outputs = tensor_names(model)
    inputs = _inputs(graph, stream, names, steps)
    _run(graph, stream)
    made = {
        name: stream.tensors.get(tensor, tensor)
        for name, tensor in zip(outputs, graph.output_tensors)
    }
    states = {f"{name}_next": tensor for name, tensor in stream.next_states.items()}
    new = Graph(
        graph.name, {**inputs, **stream.states}, {**made, **states}, stream.nodes
    )
    streamed = build(new)
    if not begins:
        _check(model, graph, streamed, list(inputs), list(made), steps)
    return streamed


def _refuse_finalized(model: keras.Model) -> None:
    for path, layer in walk(model):
        if isinstance(layer, FakeQuantize) and layer.frozen:
            raise InvalidArgumentError(
                "A finalized model is not streamed any more.",
                received=f"'{path}' with a range that is fixed",
                expected="the model before `finalize`",
                fix="finalize(streaming(model)) in place of streaming(finalize(model))",
            )


def _inputs(
    graph: Graph, stream: Stream, names: list[str], steps: int
) -> dict[str, Tensor]:
    """Returns the new inputs by name; notes which of them are sequences."""
    old = graph.input_tensors
    plain = [t for t in old if len(t.shape) > 2]
    # Numbers of words are sequences too, if nothing else says how long these are.
    lengths = {t.shape[1] for t in plain} or {t.shape[1] for t in old if _is_words(t)}
    if len(lengths) != 1:
        raise InvalidArgumentError(
            f"Model '{graph.name}' has no inputs that are sequences of one length.",
            received=", ".join(f"{n} {t.shape}" for n, t in zip(names, old)),
            expected="inputs of shape (batch, time, features), or (batch, time) of "
            "whole numbers",
        )
    (length,) = lengths
    made = {}
    for name, tensor in zip(names, old):
        timed = tensor in plain or (_is_words(tensor) and tensor.shape[1] == length)
        shape = tensor.shape
        if timed:
            shape = (shape[0], steps, *shape[2:])
        made[name] = stream.tensors[tensor] = Tensor(shape, tensor.dtype, name)
        if timed:
            stream.steps[made[name]] = Steps(steps)
    return made


def _is_words(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and "int" in tensor.dtype


def _run(graph: Graph, stream: Stream) -> None:
    """Adds what the nodes of the whole model are for a part of a sequence.

    Raises:
        UnsupportedLayerError: with all layers that need more than that.
    """
    faults: dict[str, NeedsAll] = {}
    unknown: set[Tensor] = set()
    for old in graph.nodes:
        if unknown.intersection(old.inputs):
            unknown.update(old.output_tensors)
            continue
        node = old.reading(stream.tensors)
        if not any(tensor in stream.steps for tensor in node.inputs):
            stream.add(node)
            continue
        try:
            _call(node, old, stream)
        except NeedsAll as fault:
            faults[_named(old, graph)] = fault
            unknown.update(old.output_tensors)
    for tensor in graph.output_tensors:
        new = stream.tensors.get(tensor, tensor)
        steps = stream.steps.get(new)
        if steps is not None and steps.before and tensor not in unknown:
            faults["the output"] = NeedsAll(
                "it holds steps that a padding has added", "cut them off"
            )
    if faults:
        raise UnsupportedLayerError(
            "These layers need more of a sequence than what has come.",
            received="; ".join(f"{name}: {one}" for name, one in faults.items()),
            expected="layers that look at the steps so far, and no further",
            fix="; ".join(dict.fromkeys(one.fix for one in faults.values())),
        )


def _named(node: Node, graph: Graph) -> str:
    """Returns a layer by its name, and an operation by that of the layer before it."""
    kind = name_of(node.operation)
    if isinstance(node.operation, keras.Layer):
        return f"'{rounded_layer(node.name)}' ({kind})"
    makers = map(graph.producers().get, node.inputs)
    before = next((maker.name for maker in makers if maker is not None), None)
    return kind if before is None else f"{kind} behind '{rounded_layer(before)}'"


def _call(node: Node, old: Node, stream: Stream) -> None:
    call = Call(node, old, stream)
    if call.steps.merged and not isinstance(call.layer, SamplesAsSteps):
        call.each()  # steps are samples there
        return
    rule = cell(call.layer, "streams")
    if rule is None:
        raise NeedsAll(
            "it is not known to work without the steps to come",
            "say how it streams: LayerRule(..., streams='each') if it treats each step "
            "on its own",
        )
    (rules.each if rule == "each" else rule)(call)


def _check(
    model: keras.Model,
    graph: Graph,
    streamed: keras.Model,
    inputs: list[str],
    outputs: list[str],
    steps: int,
) -> None:
    """Raises unless a few calls give what the whole model gives of their steps."""
    ranges = [one for _, one in walk(model) if isinstance(one, FakeQuantize)]
    if not all(one.has_range for one in ranges):
        return  # each call would have the range of its own numbers
    arrays = samples_of(graph, 2, steps * _CALLS)
    timed = [n for n in inputs if _is_cut(streamed.input[n], arrays[inputs.index(n)])]
    length = arrays[inputs.index(timed[0])].shape[1] if timed else steps
    calls = min(length // steps, _CALLS)
    try:
        wanted = run(model, graph.inputs, arrays)
    except Exception:  # whatever it raises for numbers that mean nothing to it
        return
    states = {
        name: np.zeros((len(arrays[0]), *tensor.shape[1:]), tensor.dtype)
        for name, tensor in streamed.input.items()
        if name not in inputs
    }
    parts: list[dict[str, Any]] = []
    for call in range(calls):
        now = slice(call * steps, (call + 1) * steps)
        given = {
            name: array[:, now] if name in timed else array
            for name, array in zip(inputs, arrays)
        }
        made = streamed({**given, **states}, training=False)
        parts.append({n: keras.ops.convert_to_numpy(v) for n, v in made.items()})
        states = {name: parts[-1][f"{name}_next"] for name in states}
    producers = graph.producers()
    half = any("16" in layer.compute_dtype for _, layer in walk(model))
    share = _HALF_SHARE if half else _FLOAT_SHARE
    for name, tensor, whole in zip(outputs, graph.output_tensors, wanted):
        last = parts[-1][name]
        if last.ndim == whole.ndim > 2 and last.shape[1] != whole.shape[1]:
            found = np.concatenate([part[name] for part in parts], axis=1)
            whole = whole[:, : found.shape[1]]
        elif calls * steps == length:
            found = last
        else:
            continue  # what the whole model ends with lies behind these calls
        maker = producers[tensor].operation if tensor in producers else None
        bound = share * float(np.abs(whole).max(initial=0.0)) + _SMALLEST
        if isinstance(maker, FakeQuantize):
            bound = _STEPS * maker.step()
        apart = float(distance(whole, found).max(initial=0.0))
        if apart > bound:
            raise UnsupportedLayerError(
                "The model of a few steps computes something else than the whole one.",
                received=f"output '{name}', off by up to {apart:.3g}",
                expected="the same numbers",
                fix="tell us of it, with the layers before this output",
            )


def _is_cut(symbolic: Any, array: np.ndarray) -> bool:
    return array.ndim > 1 and symbolic.shape[1] != array.shape[1]
