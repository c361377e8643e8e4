"""What quantization will do to a model, before it does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Graph, Node, output_names, trace_operations
from tfcompress.core.inlining import inlined, unique_names
from tfcompress.core.select import Filters, matches, require_built, select, walk
from tfcompress.layers import changes_nothing, rule_of
from tfcompress.layers.integer_form import StaysFloat
from tfcompress.quantization.activations import bounds_of, kernel_of
from tfcompress.quantization.additive_masks import with_chosen_scores
from tfcompress.quantization.casts import with_explicit_casts
from tfcompress.quantization.constants import has_numbers, out_of_reach
from tfcompress.quantization.expand import expand
from tfcompress.quantization.expansions import expansion_of
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.integers.as_convolution import affine_parameters
from tfcompress.quantization.integers.kernels import integer_kernel
from tfcompress.quantization.mask_nodes import with_explicit_masks
from tfcompress.quantization.placement import flow_of
from tfcompress.quantization.quantizers import Quantizer
from tfcompress.quantization.scheme import (
    QuantizationScheme,
    Scheme,
    owner_path,
    schemes_by_path,
)
from tfcompress.quantization.time_distributed import with_steps_as_samples
from tfcompress.quantization.weight_only import reasons_for_floats

_PURPOSE = "make the model quantization-aware"
# Of a column of inputs within three standard deviations.
_FEWEST_VALUES = 16


@dataclasses.dataclass(frozen=True)
class FloatLayer:
    """A layer that stays in float though it was to be quantized.

    Attributes:
        name: its name.
        kind: its class.
        reason: what about it has no integer form.
        fix: what the user can do about it.
    """

    name: str
    kind: str
    reason: str = "LiteRT has no integer kernel for it"
    fix: str = "replace it, or use register_layer_rule if it only passes numbers on"

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}): {self.reason}; {self.fix}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What quantization will do to a model.

    Attributes:
        model: the model.
        graph: the model as single operations.
        chosen: whether an operation is to run in integers.
        scheme: the number formats of the model; a layer's own is in `quantizer_of`.
        quantizer_of: the quantizer of a node's kernels.
        output_names: names of the model's outputs.
        float_layers: chosen layers that have no integer form.
        impossible: chosen layers that cannot be exported with these numbers.
    """

    model: keras.Model
    graph: Graph
    chosen: Callable[[Any], bool]
    scheme: QuantizationScheme
    quantizer_of: Callable[[Node], Quantizer]
    output_names: list[str]
    float_layers: list[FloatLayer]
    impossible: list[FloatLayer]


def plan(model: keras.Model, scheme: Scheme, filters: Filters = None) -> Plan:
    """Returns what `quantize_aware` with these arguments will do.

    Raises:
        InvalidArgumentError: for what `quantize_aware` refuses.
    """
    require_built(model, _PURPOSE)
    with unique_names(model):
        return _plan(model, scheme, filters)


def _plan(model: keras.Model, scheme: Scheme, filters: Filters) -> Plan:
    closed: dict[int, str] = {}
    functional = inlined(model, _is_known, _PURPOSE, closed)
    graph = with_explicit_masks(trace_operations(functional))
    graph = with_steps_as_samples(graph, _is_known, _PURPOSE)
    paths = {one.name: path for path, one in walk(model) if rule_of(one) is not None}
    common, scheme_of = schemes_by_path(scheme, list(paths.values()))
    if any(isinstance(layer, FakeQuantize) for _, layer in walk(model)):
        raise InvalidArgumentError(
            f"Model '{model.name}' is quantization-aware already.",
            fix="pass the model from before quantize_aware",
        )
    selected = _chooser(model, filters)
    if common.activations is None:
        quantizer_of = _quantizers(scheme_of, paths)
        return _of_weights(model, graph, selected, common, quantizer_of, functional)
    graph, masking = with_chosen_scores(graph, selected)
    in_float = {id(operation) for operation in masking}

    def wanted(operation: Any) -> bool:
        return selected(operation) and id(operation) not in in_float

    graph = with_explicit_casts(
        graph, lambda node: wanted(node.operation) and _computes(node.operation)
    )
    graph, refusals = expand(graph, wanted)
    refusals |= _uneven_inputs(graph) | _closed(graph, closed)

    def chosen(operation: Any) -> bool:
        return wanted(operation) and operation.name not in refusals

    return Plan(
        model,
        graph,
        chosen,
        common,
        _quantizers(scheme_of, paths),
        output_names(functional),
        _float_layers(graph, wanted, refusals, _names_in_wrappers(model)),
        [
            *_without_meaning(graph, chosen),
            *(_impossible(graph, chosen, paths) if common.activations != 8 else ()),
        ],
    )


def _quantizers(
    scheme_of: Callable[[str], QuantizationScheme], paths: dict[str, str]
) -> Callable[[Node], Quantizer]:
    return lambda node: scheme_of(owner_path(node.name, paths)).weights


def _of_weights(
    model: keras.Model,
    graph: Graph,
    wanted: Callable[[Any], bool],
    scheme: QuantizationScheme,
    quantizer_of: Callable[[Node], Quantizer],
    functional: keras.Model,
) -> Plan:
    """Returns what a scheme without activations will do."""
    refusals = reasons_for_floats(graph, wanted, quantizer_of)
    named = _names_in_wrappers(model)
    layers = {
        node.name: FloatLayer(
            named.get(node.name, node.name),
            type(node.operation).__name__,
            refusals[node.name].reason,
            refusals[node.name].fix,
        )
        for node in graph.nodes
        if node.name in refusals
    }

    def chosen(operation: Any) -> bool:
        return wanted(operation) and operation.name not in refusals

    return Plan(
        model,
        graph,
        chosen,
        scheme,
        quantizer_of,
        output_names(functional),
        [*layers.values()],
        [],
    )


def _chooser(model: keras.Model, filters: Filters) -> Callable[[Any], bool]:
    """Returns whether an operation is to be quantized; parts of a layer always are."""
    select(model, filters, lambda layer: rule_of(layer) is not None)
    left_out = {
        id(layer) for path, layer in walk(model) if not matches(path, layer, filters)
    }
    return lambda operation: id(operation) not in left_out


def _is_known(layer: Any) -> bool:
    return rule_of(layer) is not None or expansion_of(layer) is not None


def _computes(operation: Any) -> bool:
    """Returns whether integers are computed of what an operation reads."""
    known = expansion_of(operation) is not None
    return (known or flow_of(operation) != "float") and flow_of(operation) != "lookup"


def _closed(graph: Graph, reasons: dict[int, str]) -> dict[str, StaysFloat]:
    """Returns why layers made of layers stay such, and so in float."""
    return {
        node.name: StaysFloat(
            reasons[id(node.operation)],
            "nothing, if it may be a float; else let it use its own weights by "
            "keras.ops, and other layers by calling them",
        )
        for node in graph.nodes
        if id(node.operation) in reasons
    }


def _uneven_inputs(graph: Graph) -> dict[str, StaysFloat]:
    """Returns why inputs whose columns differ much are normalized in float.

    A tensor has one step. That of a table with ages and incomes would be larger than
    any age; once they are normalized all columns are alike.
    """
    found = {}
    producers, inputs = graph.producers(), graph.input_tensors
    for node in graph.nodes:
        layer = node.operation
        if not isinstance(layer, keras.layers.Normalization):
            continue
        columns = node.output.shape[-1]
        before = producers.get(node.inputs[0])
        cast = before is not None and type(before.operation).__name__ == "Cast"
        source = before.inputs[0] if before and cast else node.inputs[0]
        if columns is None or source not in inputs:
            continue
        scales = affine_parameters(layer, columns)
        if scales is None:
            continue
        deviation, mean = 1.0 / scales[0], -scales[1] / scales[0]
        ends = mean - 3.0 * deviation, mean + 3.0 * deviation
        step = (ends[1].max() - ends[0].min()) / 255.0
        coarse = int(np.sum(6.0 * deviation / step < _FEWEST_VALUES))
        if coarse:
            found[node.name] = StaysFloat(
                f"one 8-bit range would leave {coarse} of its {columns} columns "
                f"fewer than {_FEWEST_VALUES} values",
                "nothing, if inputs may be floats; else normalize the data before "
                "the model",
            )
    return found


def _names_in_wrappers(model: keras.Model) -> dict[str, str]:
    """Returns what layers in a TimeDistributed are called: mostly it has the name."""
    return {
        layer.name: f"{wrapper.name}/{layer.name}"
        for _, wrapper in walk(model)
        if isinstance(wrapper, keras.layers.TimeDistributed)
        for _, layer in walk(wrapper)
    }


def _without_meaning(
    graph: Graph, chosen: Callable[[Any], bool]
) -> Iterator[FloatLayer]:
    """Yields what integers cannot stand for, however many bits they have."""
    for node in graph.nodes:
        if not chosen(node.operation) or not changes_nothing(node):
            continue
        given, made = node.inputs[0].shape, node.output.shape
        if given != made:
            yield FloatLayer(
                node.name,
                type(node.operation).__name__,
                f"it makes {made} of {given} in training, and gives on its input "
                "unchanged after it",
                "crop the data before the model, or use CenterCrop",
            )
    for node, number in out_of_reach(graph, _passes_on).items():
        if chosen(node.operation):
            yield FloatLayer(
                node.name,
                type(node.operation).__name__,
                f"it puts the number {number:g} into a tensor, and no range of "
                "integers holds that and the numbers around zero",
                "use a number near those of the tensor",
            )


def _passes_on(node: Node) -> bool:
    return flow_of(node.operation) in ("select", "concatenate")


def _float_layers(
    graph: Graph,
    chosen: Callable[[Any], bool],
    refusals: dict[str, StaysFloat],
    names: dict[str, str],
) -> list[FloatLayer]:
    found = {}
    for node in graph.nodes:
        stays = node.name in refusals or flow_of(node.operation) == "float"
        makes_numbers = any("float" in t.dtype for t in node.output_tensors)
        if chosen(node.operation) and stays and makes_numbers:
            why = refusals.get(node.name)
            said = {"reason": why.reason, "fix": why.fix} if why else {}
            kind = type(node.operation).__name__
            name = names.get(node.name, node.name)
            found[node.name] = FloatLayer(name, kind, **said)
    return list(found.values())


def _impossible(
    graph: Graph, chosen: Callable[[Any], bool], paths: dict[str, str]
) -> list[FloatLayer]:
    """Returns the layers that the converter knows no 16-bit kernel for."""
    named: dict[str, FloatLayer] = {}
    for node in graph.nodes:
        if chosen(node.operation) and _is_8_bits_only(node):
            owner = owner_path(node.name, paths)
            named.setdefault(
                owner,
                FloatLayer(
                    owner,
                    type(node.operation).__name__,
                    "the converter has no 16-bit form of it",
                    "use 8 bits, such as scheme='w8a8'; or end the model with its "
                    "logits and let the application compute the softmax",
                ),
            )
    return list(named.values())


def _is_8_bits_only(node: Node) -> bool:
    operation = node.operation
    return (
        not integer_kernel(operation).sixteen_bits
        or not kernel_of(operation).sixteen_bits
        or bounds_of(operation) is not None
        or (type(operation).__name__ == "Pad" and has_numbers(node))
    )
