"""finalize: drop what only training needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfcompress.core.graph import Graph, Node, build, config_of, is_graph_model, trace
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
        graph = integer_graph(graph)
    made: dict[int, Any] = {}

    def final(node: Node) -> Node:
        key = id(node.operation)
        if key not in made:
            made[key] = _final_operation(node)
        operation, weights = made[key]
        return dataclasses.replace(node, operation=operation, weights=weights)

    return build(dataclasses.replace(graph, nodes=[final(n) for n in graph.nodes]))


def _without_normalized_kernels(graph: Graph) -> Graph:
    """Replaces each SpectralNormalization by its layer, whose kernel it has set."""

    def inner(node: Node) -> Node:
        if not isinstance(node.operation, keras.layers.SpectralNormalization):
            return node
        return dataclasses.replace(node, operation=node.operation.layer, kwargs={})

    return dataclasses.replace(graph, nodes=[inner(node) for node in graph.nodes])


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


def _final_operation(node: Node) -> tuple[Any, Any]:
    operation, weights = node.operation, node.weights
    if not isinstance(operation, keras.Layer):
        return operation, weights
    if operation.built and weights is None:
        weights = operation.get_weights
    changes: dict[str, Any] = {"dtype": "float32"}
    if isinstance(operation, FakeQuantize):
        found = operation.learned_range()  # raises if there is none
        changes["frozen"] = True
        if not operation.is_wide:
            # As numbers of the graph: converters compute what is not one to the last
            # bit only, and then a scale is not the one that the model has.
            changes |= {"fixed_range": found, "learned": False}
            weights = None
    config = {**config_of(operation), **changes}
    return type(operation).from_config(config), weights
