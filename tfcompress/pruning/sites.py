"""Sites: the kernels of a model that are to be pruned, and what surrounds them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Graph, is_graph_model, trace
from tfcompress.core.select import Filters, exclude, select, walk
from tfcompress.layers import Kernel, cell, kernels_of, no_products
from tfcompress.layers.lora import leave_out_lora


@dataclasses.dataclass(frozen=True)
class Site:
    """One kernel in its model.

    Attributes:
        model: the model that is trained.
        path: path of the layer in it.
        layer: the layer that holds the kernel.
        kernel: which of the layer's kernels it is, and what its axes mean.
        variable: the kernel's values.
    """

    model: keras.Model
    path: str
    layer: keras.Layer
    kernel: Kernel
    variable: keras.Variable

    @property
    def size(self) -> int:
        return math.prod(self.variable.shape)

    @property
    def name(self) -> str:
        """The layer's path, with the kernel's name where the layer has several."""
        several = len(list(kernels_of(self.layer))) > 1
        return f"{self.path}.{self.kernel.attribute}" if several else self.path

    def batch_norm(self) -> keras.layers.BatchNormalization | None:
        """Returns the BatchNormalization that reads this layer and nothing else does.

        It is looked for in the graph, so `None` is the answer in a subclassed model.
        """
        for graph in _graphs(self.model):
            readers = graph.consumers()
            for node in graph.nodes:
                if node.operation is self.layer:
                    found = [r.operation for r in readers.get(node.output, [])]
                    if len(found) == 1 and _is_batch_norm(found[0]):
                        return found[0]
        return None

    def makes_output(self) -> bool:
        """Returns whether the model's outputs have the channels of this kernel."""
        return any(self.layer in _output_layers(g) for g in _graphs(self.model))


def select_sites(model: keras.Model, filters: Filters = None) -> list[Site]:
    """Returns the trainable kernels of `model` in the order of its variables.

    A layer that has weights but no rule is named in a warning, or is an error where
    `filters` ask for it.
    """
    leave_out_lora(model, filters, "pruned")
    order = {id(v): i for i, v in enumerate(model.trainable_variables)}
    # The cell inside an LSTM has no rule, but the LSTM's tells all about it.
    ruled = (layer for _, layer in walk(model) if any(True for _ in kernels_of(layer)))
    known = {id(variable) for layer in ruled for variable in layer.variables}

    def is_candidate(layer: keras.Layer) -> bool:
        if any(True for _ in kernels_of(layer)):
            return True
        if any(True for _ in walk(layer)) or cell(layer, "macs") is no_products:
            return False
        matrices = (v for v in layer.trainable_variables if len(v.shape) > 1)
        return any(id(v) not in known for v in matrices)

    found: dict[int, Site] = {}
    unknown = []
    for path, layer in select(model, filters, is_candidate):
        if not any(True for _ in kernels_of(layer)):
            unknown.append(f"{path} ({type(layer).__name__})")
        for kernel, variable in kernels_of(layer):
            if id(variable) in order:
                found[id(variable)] = Site(model, path, layer, kernel, variable)
    if unknown:
        exclude(
            unknown,
            "pruned",
            "it is not known which of their weights are kernels",
            "tell where their kernels are: "
            "register_layer_rule(LayerRule(YourLayer, kernels=(Kernel('kernel'),)))",
            asked_for=filters is not None,
        )
    if not found:
        raise InvalidArgumentError(
            f"Model '{model.name}' has no trainable kernel to prune.",
            received=f"filters={filters!r}",
            expected="at least one trainable layer with a kernel, such as Dense",
            fix="set layer.trainable = True on the layers to prune",
        )
    return sorted(found.values(), key=lambda site: order[id(site.variable)])


def _is_batch_norm(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _graphs(model: keras.Model) -> Iterator[Graph]:
    """Yields the graph of the model, or those of the models inside a subclassed one."""
    if is_graph_model(model):
        yield trace(model)
        return
    for _, layer in walk(model):
        if is_graph_model(layer):
            yield trace(layer)


def _output_layers(graph: Graph) -> list[Any]:
    """Returns the layers whose channels the graph's outputs have."""
    producers = graph.producers()
    pending = [t for t in keras.tree.flatten(graph.outputs) if t in producers]
    found, seen = [], set(pending)
    while pending:
        node = producers[pending.pop()]
        found.append(node.operation)
        kernels = isinstance(node.operation, keras.Layer) and list(
            kernels_of(node.operation)
        )
        if kernels and any(kernel.input_axes for kernel, _ in kernels):
            continue  # its outputs are sums over the channels before it
        new = [t for t in node.inputs if t in producers and t not in seen]
        seen.update(new)
        pending += new
    return found
