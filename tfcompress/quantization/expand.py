"""Expansion: layers that do several things become several nodes.

Between two integer operations there must be a tensor with a range. A layer that does
two of them in one call (a Dense with softmax, a SeparableConv2D, attention) hides that
tensor, so it is replaced by a small Functional model of single operations that
computes the same, with its weights. Operations of `keras.ops` become the layer that
they are under another name (`x + y`, `ops.relu(x)`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.core.graph import (
    Graph,
    Node,
    Tensor,
    symbolic_inputs,
    trace_operations,
)
from tfcompress.core.select import walk
from tfcompress.core.tied import tied_operations
from tfcompress.layers import lora
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.casts import is_float
from tfcompress.quantization.expansions import expansion_of
from tfcompress.quantization.opened import is_unknown, opened
from tfcompress.quantization.placement import flow_of

# Of numbers near zero, 8 bits leave too little for these.
_TOO_COARSE = frozenset({"Rsqrt", "Log"})


def expand(
    graph: Graph, chosen: Callable[[Any], bool]
) -> tuple[Graph, dict[str, StaysFloat]]:
    """Returns `graph` with the chosen layers split into single operations.

    Beside it: why some layers cannot be, by their names.
    """
    expander = _Expander(tied_operations(graph))
    mapping: dict[Tensor, Tensor] = {}
    graph = graph.flat_map(
        lambda node: expander.split(node, mapping) if chosen(node.operation) else [node]
    )
    return _merged(graph.substitute(mapping), chosen), expander.refusals


def _merged(graph: Graph, chosen: Callable[[Any], bool]) -> Graph:
    """Returns `graph` with one node where several compute the same.

    Converters merge them too. What was one tensor with two ranges then has one of
    them, and a layer that two activations read is no longer rounded before either.
    """
    first: dict[Any, list[Tensor]] = {}
    mapping: dict[Tensor, Tensor] = {}
    nodes = []
    for node in graph.nodes:
        node = node.reading(mapping)
        computation = _computation(node.operation) if chosen(node.operation) else None
        if computation is not None:
            key = (*computation, repr(_signature(node, id)))
            if key in first:
                mapping |= dict(zip(node.output_tensors, first[key]))
                continue
            first[key] = node.output_tensors
        nodes.append(node)
    return graph.substitute(mapping, nodes)


def _computation(operation: Any) -> tuple | None:
    """Returns what operations have in common that compute the same of the same.

    `None` for those that do not: what draws numbers, remembers calls, or is a class of
    the user's own.
    """
    if not type(operation).__module__.startswith(("keras.", "tfcompress.")):
        return None
    if isinstance(operation, keras.layers.Activation):
        return type(operation), operation.activation
    if getattr(operation, "variables", None):
        parts = [operation, *(layer for _, layer in walk(operation))]
        # Its weights are its own, or it is the very same layer.
        return None if any(map(_differs_by_call, parts)) else (id(operation),)
    try:
        config = operation.get_config()
    except NotImplementedError:  # of an operation that was given what has no text
        return None
    return type(operation), repr({**config, "name": None})


def _differs_by_call(layer: Any) -> bool:
    seeds = (isinstance(v, keras.random.SeedGenerator) for v in vars(layer).values())
    return getattr(layer, "stateful", False) or any(seeds)


class _Expander:
    def __init__(self, tied: dict[int, str]) -> None:
        self.tied = tied
        # A shared layer is split once; its calls share the parts.
        self.parts: dict[int, Parts] = {}
        self.models: dict[Any, keras.Model | None] = {}
        self.refusals: dict[str, StaysFloat] = {}

    def split(self, node: Node, mapping: dict[Tensor, Tensor]) -> Iterator[Node]:
        """Yields the nodes that `node` stands for.

        Outputs that turn out to be one of its inputs are noted in `mapping`.
        """
        if lora.has_lora(node.operation):
            self.refusals[node.name] = StaysFloat(lora.REASON, lora.FIX)
            yield node
            return
        function = expansion_of(node.operation)
        if function is None and is_unknown(node.operation):
            function = opened
        if function is None:
            yield node
            return
        given = list(dict.fromkeys(node.inputs))
        parts = self.parts.setdefault(id(node.operation), Parts(node.operation))
        # One model stands for all calls in which the same arguments are one tensor.
        key = (id(node.operation), repr(_signature(node, given.index)))
        if key not in self.models:
            try:
                self.models[key] = _as_model(function, parts, node)
            except StaysFloat as refusal:
                self.refusals[node.name] = refusal
                self.models[key] = None
        model = self.models[key]
        other = self.tied.get(id(node.operation))
        if model is not None and other is not None:
            # Parts would have weights of their own, and training would part them.
            self.refusals[node.name] = StaysFloat(
                f"'{other}' uses the same weights, and it does more than multiply",
                "give its activation, or its mask, to a layer of their own",
            )
            model = None
        if model is None:
            yield node
            return
        inner = trace_operations(model).fed_with(given)
        if function is opened and not self.reaches_integers(node, inner):
            yield node
            return
        renamed = dict(zip(inner.output_tensors, node.output_tensors))
        for made, wanted in renamed.items():
            if made in given:
                mapping[wanted] = mapping.get(made, made)
        for part in inner.nodes:
            if not isinstance(part.operation, keras.Layer):
                # Messages and ranges name the layer that it is a part of.
                _name_after(node.name, part.operation)
            yield from self.split(part.reading(renamed).making(renamed), mapping)

    def reaches_integers(self, node: Node, inner: Graph) -> bool:
        """Returns whether all that a layer of the user's does has an integer form.

        If not, it is better off in one piece, in float, than rounded in between.
        """
        if node.name in self.refusals:
            return False
        trial = _Expander(self.tied)
        nodes = [one for part in inner.nodes for one in trial.split(part, {})]
        float_kinds = [
            type(one.operation).__name__
            for one in nodes
            if any(map(is_float, one.output_tensors))
            and (
                one.name in trial.refusals
                or flow_of(one.operation) == "float"
                or type(one.operation).__name__ in _TOO_COARSE
            )
        ]
        if float_kinds:
            self.refusals[node.name] = StaysFloat(
                f"its `call` computes {', '.join(dict.fromkeys(float_kinds))}",
                "use a layer of Keras, such as RMSNormalization or LayerNormalization, "
                "or operations that have an integer form",
            )
        return not float_kinds


def _name_after(owner: str, operation: Any) -> None:
    if not operation.name.startswith(owner):
        operation.name = f"{owner}_{operation.name}"


def _signature(node: Node, name: Callable[[Tensor], Any]) -> Any:
    """Returns the arguments of a call, such that equal ones can be told by `repr`.

    Args:
        node: the call.
        name: returns what stands for a tensor.
    """

    def leaf_of(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return "tensor", name(leaf), leaf.shape, leaf.dtype
        if keras.ops.is_tensor(leaf) or isinstance(leaf, np.ndarray):
            array = np.asarray(keras.ops.convert_to_numpy(leaf))
            return array.shape, array.dtype.str, array.tobytes()
        return leaf

    return keras.tree.map_structure(leaf_of, (node.args, node.kwargs))


def _as_model(function: Callable, parts: Parts, node: Node) -> keras.Model | None:
    """Returns a model of one node, or `None` if it stays as it is."""
    inputs, (args, kwargs) = symbolic_inputs((node.args, node.kwargs))
    outputs = function(node.operation, parts, *args, **kwargs)
    if outputs is None:
        return None
    model = keras.Model([*inputs.values()], outputs)
    if isinstance(node.operation, keras.Layer):
        for layer in model.layers:
            layer.trainable = layer.trainable and node.operation.trainable
    return model
