"""finalize: drop what only training needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfcompress.core.copies import clone_operation
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Graph, Node, build, is_graph_model, trace
from tfcompress.core.select import require_built, walk
from tfcompress.layer_rules import changes_nothing
from tfcompress.quantization.casts import cast_of, is_float
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.integer_graph import integer_graph


def finalize(model: keras.Model) -> keras.Model:
    """Returns the model as it will be deployed, without what only training needs.

    When to use: after `fit` and before `export`. Rounded kernels replace the unrounded
    ones (their wrappers go), BatchNormalization is folded into them, ranges of
    activations are fixed, dropout and the like are taken out, and layers compute in
    float32. Masks leave nothing behind: a pruned kernel simply has zeros.

    Args:
        model: a built model. It is not changed. A subclassed model has nothing that
            could be taken out and is returned as it is.

    Returns:
        A new, uncompiled Functional model.

    Raises:
        InvalidArgumentError: if the model is unbuilt, or is quantization-aware and
            was never trained, so that it has no ranges.

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
    graph = trace(model, "finalize the model")
    quantized = any(isinstance(layer, FakeQuantize) for _, layer in walk(model))
    graph = _without_training_layers(_without_normalized_kernels(graph))
    if quantized:
        _require_ranges(graph)
        graph = integer_graph(graph)
    made: dict[int, dict[str, Any]] = {}

    def final(node: Node) -> Node:
        key = id(node.operation)
        if key not in made:
            made[key] = _final_operation(node)
        return dataclasses.replace(node, **made[key])

    return build(dataclasses.replace(graph, nodes=[final(n) for n in graph.nodes]))


def _without_normalized_kernels(graph: Graph) -> Graph:
    """Replaces each SpectralNormalization by its layer, whose kernel it has set."""

    def inner(node: Node) -> Node:
        if not isinstance(node.operation, keras.layers.SpectralNormalization):
            return node
        return dataclasses.replace(node, operation=node.operation.layer, kwargs={})

    return dataclasses.replace(graph, nodes=[inner(node) for node in graph.nodes])


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
    final = clone_operation(operation, **changes)
    return {"operation": final, "source": node.source or operation}
