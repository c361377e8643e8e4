"""finalize: drop what only training needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tfcompress.core.copies import clone_operation
from tfcompress.core.errors import (
    InvalidArgumentError,
    UnsupportedLayerError,
    one_line,
)
from tfcompress.core.graph import (
    Graph,
    Node,
    build,
    is_graph_model,
    output_names,
    trace,
)
from tfcompress.core.samples import attempts, distance, run, swing
from tfcompress.core.select import require_built, walk
from tfcompress.layers import changes_nothing
from tfcompress.quantization.casts import cast_of, is_float
from tfcompress.quantization.fake_quantize import FakeQuantize, rounded_layer
from tfcompress.quantization.integers.graph import integer_graph
from tfcompress.quantization.integers.small_numbers import warn_of_small_numbers
from tfcompress.quantization.wrapper import QuantizedLayer

_SAMPLES = 2
# How far a finalized model may be off on average: in steps of a rounded output, or as
# a share of the largest value of any other.
_MOST_STEPS = 4.0
_FLOAT_SHARE, _QUANTIZED_SHARE, _SMALLEST = 1e-3, 0.05, 1e-6
# How little inputs are moved, by `quantized`, to see how far outputs move by it.
_NUDGE = {False: 1e-6, True: 2e-3}


def finalize(model: keras.Model) -> keras.Model:
    """Returns the model as it will be deployed, without what only training needs.

    When to use: after `fit` and before `export`. Rounded kernels replace the unrounded
    ones and their wrappers, BatchNormalization is folded into them, ranges of
    activations are fixed, dropout and similar layers are removed, and layers compute in
    float32. Masks leave nothing behind: a pruned kernel simply has zeros.

    Args:
        model: a built model. It is not changed. A subclassed model has nothing that
            could be removed and is returned as it is.

    Returns:
        A new, uncompiled Functional model.

    Raises:
        InvalidArgumentError: if the model is unbuilt, or is quantization-aware and
            was never trained, so that it has no ranges.
        UnsupportedLayerError: if the new model cannot be called, or computes something
            else. Before it is returned it is tried on two samples, if samples can be
            made that the model accepts.

    Example:

    >>> model = keras.Sequential([keras.Input((4,), name="x"),
    ...                           keras.layers.Dropout(0.5, name="drop"),
    ...                           keras.layers.Dense(2, name="head")])
    >>> [layer.name for layer in finalize(model).layers]
    ['x', 'head']
    """
    require_built(model, "finalize the model")
    if not is_graph_model(model):
        return model
    return finalized(model, trace(model, "finalize the model"))


def finalized(model: keras.Model, graph: Graph) -> keras.Model:
    """Returns what `finalize` makes of a model whose graph is known.

    Args:
        model: a built Functional or Sequential model.
        graph: its traced graph.
    """
    original = graph
    quantized = any(isinstance(layer, FakeQuantize) for _, layer in walk(model))
    graph = _without_training_layers(_without_normalized_kernels(graph))
    if quantized:
        _require_ranges(graph)
        warn_of_small_numbers(model)
        graph = integer_graph(graph)
    finished = build(graph.with_operations(_final_operation))
    _check(model, original, finished, quantized)
    return finished


def _check(
    model: keras.Model, graph: Graph, finished: keras.Model, quantized: bool
) -> None:
    """Raises unless the new model runs, and computes what the old one does.

    Both are called once, on two samples that their inputs can take. A float model is
    to be equal up to the rounding of float32. A quantized one is to be within
    `_MOST_STEPS` steps of its output on average: biases are rounded, and layers that
    were computed in fractions are computed in integers.
    """
    for arrays, expected in attempts(model, graph, _SAMPLES):
        try:
            actual = run(finished, graph.inputs, arrays)
        except Exception as error:
            name = _first_failure(finished, arrays)
            raise UnsupportedLayerError(
                f"The finalized model cannot be called: '{name}' fails.",
                received=one_line(error),
                expected="a layer that runs as the trained one does",
                fix="leave this layer in float by `filters`, or replace it",
            ) from error
        bounds = _bounds(model, graph, expected, quantized)
        apart = [distance(*pair) for pair in zip(expected, actual)]
        if all(map(_is_within, apart, bounds)):
            return
        swings = swing(model, graph.inputs, arrays, _NUDGE[quantized])
        # What moves by itself by as much proves nothing.
        off = [
            position
            for position, (one, bound) in enumerate(zip(apart, bounds))
            if not _is_within(one, bound) and _is_within(4 * swings[position], bound)
        ]
        if off:
            largest = max(float(apart[i].max()) for i in off)
            raise UnsupportedLayerError(
                "The finalized model computes something else than the trained one.",
                received=f"outputs of '{output_names(model)[off[0]]}' that are off by "
                f"up to {largest:.3g}, first behind "
                f"'{_first_difference(model, finished, arrays, quantized)}'",
                expected="the same numbers, up to rounding",
                fix="leave this layer in float by `filters`, and tell us of it",
            )


def _bounds(
    model: keras.Model, graph: Graph, expected: list[np.ndarray], quantized: bool
) -> list[float]:
    """Returns how far each output may be off, on average over its values."""
    producers, bounds = graph.producers(), []
    half = any("16" in layer.compute_dtype for _, layer in walk(model))
    for tensor, value in zip(graph.output_tensors, expected):
        maker = producers[tensor].operation if tensor in producers else None
        if isinstance(maker, FakeQuantize):
            bounds.append(_MOST_STEPS * maker.step())
            continue
        if value.dtype == object:  # texts, which are equal or not
            bounds.append(0.0)
            continue
        share = _QUANTIZED_SHARE if quantized or half else _FLOAT_SHARE
        numbers = value[np.isfinite(value)]
        size = np.abs(numbers, dtype="float64").max(initial=0.0)
        bounds.append(share * float(size) + _SMALLEST)
    return bounds


def _is_within(apart: np.ndarray, bound: float) -> bool:
    return not apart.size or float(apart.mean()) <= bound


def _first_failure(model: keras.Model, arrays: list[np.ndarray]) -> str:
    """Returns the first layer with which the beginning of a model cannot be called."""
    graph = trace(model, "find the layer")
    made = [node for node in graph.nodes if node.output_tensors]
    low, high = 0, len(made) - 1
    while low < high:
        middle = (low + high) // 2
        outputs = [node.output_tensors[0] for node in made[: middle + 1]]
        if _fails(build(dataclasses.replace(graph, outputs=outputs)), arrays):
            high = middle
        else:
            low = middle + 1
    return made[low].name


def _fails(model: keras.Model, arrays: list[np.ndarray]) -> bool:
    try:
        run(model, model.input, arrays)
    except Exception:
        return True
    return False


def _first_difference(
    model: keras.Model, finished: keras.Model, arrays: list[np.ndarray], quantized: bool
) -> str:
    """Returns the first layer that both models have and whose outputs differ."""
    graphs = [trace(one, "find the layer") for one in (model, finished)]
    tables = [
        {n.name: n.output_tensors[0] for n in graph.nodes if n.output_tensors}
        for graph in graphs
    ]
    names = [
        node.name
        for node in graphs[0].nodes
        if node.name in tables[1]
        and (isinstance(node.operation, FakeQuantize) or not quantized)
    ]
    first, second = (
        run(
            build(dataclasses.replace(graph, outputs=[table[name] for name in names])),
            graph.inputs,
            arrays,
        )
        for graph, table in zip(graphs, tables)
    )
    share = _QUANTIZED_SHARE if quantized else _FLOAT_SHARE
    for name, wanted, got in zip(names, first, second):
        size = float(np.abs(wanted).max(initial=0.0))
        if not _is_within(distance(wanted, got), share * size + _SMALLEST):
            return rounded_layer(name)
    return output_names(model)[0]


def _without_normalized_kernels(graph: Graph) -> Graph:
    """Replaces each SpectralNormalization by its layer, whose kernel it has set."""

    def layer_within(node: Node) -> dict[str, Any]:
        if not isinstance(node.operation, keras.layers.SpectralNormalization):
            return {}
        return {"operation": node.operation.layer, "kwargs": {}}

    return graph.with_operations(layer_within)


def _require_ranges(graph: Graph) -> None:
    """Raises for tensors without a range, by the layers that make or read them."""
    producers, consumers = graph.producers(), graph.consumers()
    for node in graph.nodes:
        if not isinstance(node.operation, FakeQuantize) or node.operation.has_range:
            continue
        maker = producers.get(node.inputs[0])
        reader = next(iter(consumers.get(node.output, [])), None)
        near = maker or reader or node
        raise InvalidArgumentError(
            f"What '{near.name}' {'makes' if maker else 'reads'} has no range yet.",
            received="a quantization-aware model that was never trained",
            expected="a model that has been through fit",
            fix="train it with fit, a few steps suffice to set the ranges",
        )


def _without_training_layers(graph: Graph) -> Graph:
    mapping: dict = {}
    kept: list[Node] = []
    outputs = set(graph.output_tensors)
    for node in graph.nodes:
        # An Identity at the end is there for the name that it gives an output.
        names = isinstance(node.operation, keras.layers.Identity)
        if not changes_nothing(node) or (names and node.output in outputs):
            kept.append(node)
            continue
        source = mapping.get(node.inputs[0], node.inputs[0])
        if is_float(source) or not is_float(node.output):
            mapping[node.output] = source
        else:
            # Pixels of 8 bits: it gives them on as floats.
            kept.append(dataclasses.replace(cast_of(source), outputs=node.output))
    return graph.substitute(mapping, kept)


def _is_low(layer: keras.Layer) -> bool:
    """Returns whether a layer, or one inside of it, computes in less than float32."""
    parts = [layer, *(part for _, part in walk(layer))]
    return any(part.dtype_policy.name != "float32" for part in parts)


def _final_operation(node: Node) -> dict[str, Any]:
    """Returns what of a node is another in the model that is deployed."""
    operation = node.operation
    if not isinstance(operation, keras.Layer):
        return {}
    changes: dict[str, Any] = {}
    # What tells whole numbers or text by them has other numbers than these.
    computes = str(getattr(operation, "compute_dtype", None))
    if computes.startswith(("float", "bfloat")) and _is_low(operation):
        changes["dtype"] = "float32"
    if isinstance(operation, FakeQuantize):
        found = operation.learned_range()  # raises if there is none
        changes["frozen"] = True
        if not operation.is_wide:
            # As numbers of the graph: converters compute what is not one to the last
            # bit only, and then a scale is not the one that the model has.
            changes |= {"fixed_range": found, "learned": False}
            fixed = clone_operation(operation, **changes)
            return {"operation": fixed, "weights": None, "source": fixed}
    if isinstance(operation, QuantizedLayer):  # of which no integer graph was made
        final = clone_operation(operation, **changes, frozen=True)
        weights = operation.rounded_weights
        return {"operation": final, "weights": weights, "source": final}
    final = clone_operation(operation, **changes)
    return {"operation": final, "source": node.source or operation}
