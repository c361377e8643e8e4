"""Placement: which tensors get a range, and which share one.

Integer kernels take integers and give integers, so every tensor between two of them
has a range. Where kernels fuse (convolution, BatchNormalization, ReLU) there is no
tensor, and a range would tear them apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.core.names import scope_name
from tfcompress.layers import Flow, cell, rule_of
from tfcompress.quantization.activations import (
    activation_name,
    bounds_of,
    clamps,
    kernel_of,
)
from tfcompress.quantization.casts import is_float, values_of_cast
from tfcompress.quantization.constants import has_numbers, own_numbers
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.float_border import with_float_borders
from tfcompress.quantization.integers.kernels import integer_kernel
from tfcompress.quantization.primitives import Bounded
from tfcompress.quantization.range_purposes import row_factors, softmax_scores
from tfcompress.quantization.recurrent_steps import RecurrentSteps
from tfcompress.quantization.scheme import QuantizationScheme

# A constant in the place of a score that is no larger means "must not be seen".
MASKED = -30.0


def _array(constant: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(constant))


def flow_of(operation: Any) -> Flow:
    """Returns how numbers flow through an operation (`"float"` if unknown)."""
    if not isinstance(operation, keras.Layer):
        return cell(operation, "flow") or "float"
    rule = rule_of(operation)
    if rule is None:
        return "float"
    if rule.flow == "activate" and activation_name(operation) == "linear":
        return "select"
    # Other interpolations compute averages of neighbours.
    mixes = getattr(operation, "interpolation", "nearest") != "nearest"
    return "average" if rule.flow == "select" and mixes else rule.flow or "float"


@dataclasses.dataclass(eq=False)
class _Range:
    """A range that one or more tensors share."""

    name: str
    nonnegative: bool = True
    fixed: tuple[float, float] | None = None
    within: tuple[float, float] | None = None
    symmetric: bool = False
    rows: int | None = None
    masked: float | None = None
    covers: bool = False
    sites: int = 0
    contains: tuple[float, ...] = ()

    @property
    def is_its_own(self) -> bool:
        """Whether it cannot be shared: kernels prescribe it, or it is what clips."""
        return self.fixed is not None or self.within is not None

    def holds(self, constant: np.ndarray) -> bool:
        """Returns whether a constant is within a range that kernels prescribe."""
        if self.fixed is None:
            return False
        return bool(self.fixed[0] <= constant.min() and constant.max() <= self.fixed[1])

    def add_site(self, nonnegative: bool) -> int:
        self.nonnegative &= nonnegative
        self.sites += 1
        return self.sites - 1


class _Placement:
    """Finds the range of every tensor, in the order of execution."""

    def __init__(self, graph: Graph, chosen: Callable[[Any], bool]):
        self.graph = graph
        self.chosen = chosen
        self.consumers = graph.consumers()
        self.scores = softmax_scores(graph, self.flow)
        self.row_factors = row_factors(graph)
        self.ranges: dict[Tensor, _Range] = {}
        # Where to round: after a tensor is made, or on its way into one node.
        self.after: dict[Tensor, tuple[_Range, int | None]] = {}
        self.into: dict[tuple[Node, Tensor], tuple[_Range, int | None]] = {}
        self.again: set[Tensor] = set()
        self.merged: dict[_Range, _Range] = {}
        self.names: dict[Tensor, str] = {}

    def flow(self, node: Node) -> Flow:
        return flow_of(node.operation) if self.chosen(node.operation) else "float"

    def run(self, rounded_inputs: bool) -> None:
        self.in_steps = rounded_inputs
        for tensor in self.graph.input_tensors:
            if rounded_inputs and is_float(tensor):
                self.ranges[tensor] = _Range(tensor.name)
                continue
            readers = self.consumers.get(tensor, [])
            if any(self.flow(node) not in ("float", "lookup") for node in readers):
                self.new_range(tensor, tensor.name)
        for node in self.graph.nodes:
            self.visit(node)

    def visit(self, node: Node) -> None:
        flow = self.flow(node)
        numbers = own_numbers(node)
        if flow == "concatenate" or (flow == "select" and numbers):
            self.join(node, numbers)
        elif flow in ("select", "average"):
            shared = self.find(node.inputs[0])
            if shared is None:
                return
            for tensor in node.output_tensors:
                self.ranges[tensor] = shared
                if flow == "average" or has_numbers(node):
                    self.after[tensor] = (shared, None)
                elif self.is_observed(tensor):
                    self.after[tensor] = self.site(shared, tensor)
        elif flow == "float":
            for tensor in node.output_tensors:
                readers = self.consumers.get(tensor, [])
                if any(self.flow(reader) != "float" for reader in readers):
                    self.new_range(tensor, node.name)
        elif not self.fuses_with_next(node):
            self.ask_for_symmetry(node)
            for tensor in node.output_tensors:
                self.new_range(tensor, node.name, node.operation)
                if values_of_cast(node) is not None:
                    self.ranges[tensor].fixed = values_of_cast(node)
            # Nothing is computed in between, or it is rounded already.
            rounded = isinstance(node.operation, RecurrentSteps) or (
                isinstance(node.operation, Bounded) and self.find(node.inputs[0])
            )
            if rounded:
                self.again.update(node.output_tensors)

    def ask_for_symmetry(self, node: Node) -> None:
        """LiteRT's exact kernel for products wants the second factor around zero."""
        if integer_kernel(node.operation).symmetric_factor:
            shared = self.find(node.inputs[-1])
            if shared is not None and shared.within is None:
                shared.symmetric = True

    def fuses_with_next(self, node: Node) -> bool:
        if len(node.output_tensors) != 1:
            return False
        readers = self.consumers.get(node.output, [])
        if len(readers) != 1 or node.output in self.graph.output_tensors:
            return False
        follows = self.flow(readers[0])
        linear = activation_name(node.operation) in (None, "linear")
        if self.flow(node) == "compute" and follows == "fold":
            return linear
        clips = integer_kernel(node.operation).clips
        if clips is None:
            clips = self.flow(node) in ("compute", "fold")
        clamped = follows == "activate" and clamps(readers[0].operation)
        return clips and clamped and linear

    def new_range(self, tensor: Tensor, name: str, operation: Any = None) -> None:
        if not is_float(tensor):
            return
        kernel = kernel_of(operation)
        one = _Range(self.names.get(tensor, name), fixed=kernel.range)
        one.within = bounds_of(operation)
        one.covers = tensor in self.row_factors
        self.ranges[tensor] = one
        self.after[tensor] = self.site(one, tensor, kernel.nonnegative)

    def is_observed(self, tensor: Tensor) -> bool:
        """Returns whether a softmax reads the tensor itself, and nobody else does."""
        return self.scores.get(tensor) is not None

    def site(
        self, shared: _Range, tensor: Tensor, nonnegative: bool = False
    ) -> tuple[_Range, int | None]:
        """Returns where a tensor is rounded, and whether its values are looked at.

        Of scores only what a softmax sees is looked at, behind their masks.
        """
        if tensor not in self.scores or shared.is_its_own:
            return shared, shared.add_site(nonnegative)
        if not self.is_observed(tensor):
            shared.nonnegative &= nonnegative
            return shared, None
        shared.rows = self.scores[tensor]
        return shared, shared.add_site(nonnegative)

    def join(self, node: Node, numbers: tuple[float, ...]) -> None:
        """Gives all inputs of a Concatenate, and its output, one range.

        Args:
            node: what passes on the numbers of its inputs, and some of its own.
            numbers: its own, which the range must contain.
        """
        common = _Range(node.name)
        if type(node.operation).__name__ == "Where" and self.chooses(node, common):
            return
        scores = node.output in self.scores
        hidden = MASKED if scores else -np.inf
        common.contains = tuple(number for number in numbers if number > hidden)
        for tensor in dict.fromkeys(node.inputs):
            self.join_one(node, tensor, common)
        self.ranges[node.output] = common
        if self.is_observed(node.output):
            self.after[node.output] = self.site(common, node.output)
        elif has_numbers(node):
            # What is not a tensor is rounded behind the operation.
            self.after[node.output] = (common, None)

    def join_one(self, node: Node, tensor: Tensor, common: _Range) -> None:
        if not is_float(tensor):
            return  # the condition of a `where`
        found = self.find(tensor)
        apart = node.output in self.scores and tensor not in self.scores
        if found is None or found.is_its_own or apart:
            # Such scales can't be shared: round once more on the way in.
            self.into[node, tensor] = self.site(common, tensor)
        elif found is not common:
            self.merge(found, common)

    def chooses(self, node: Node, common: _Range) -> bool:
        """Looks at the constant of a `where`; says if no new range is needed for it."""
        _, *values = node.args
        tensors = [value for value in values if isinstance(value, Tensor)]
        if len(tensors) != 1:
            return False
        constant = _array(values[0] if values[1] is tensors[0] else values[1])
        fixed = self.find(tensors[0])
        if fixed is not None and fixed.holds(constant) and not self.in_steps:
            # The constant is one of the values that the range has anyway.
            self.ranges[node.output] = fixed
            self.after[node.output] = fixed, None
            return True
        if node.output in self.scores and constant.max() <= MASKED:
            common.masked = float(constant.max())
        return False

    def find(self, tensor: Tensor) -> _Range | None:
        found = self.ranges.get(tensor)
        while found in self.merged:
            found = self.merged[found]
        return found

    def merge(self, old: _Range, new: _Range) -> None:
        offset = new.sites
        for places in (self.after, self.into):
            for place, (one, site) in places.items():  # type: ignore[attr-defined]
                if one is old:
                    moved = None if site is None else site + offset
                    places[place] = (new, moved)  # type: ignore[index]
        new.sites += old.sites
        new.nonnegative &= old.nonnegative
        new.symmetric |= old.symmetric
        new.covers |= old.covers
        new.rows = old.rows if new.rows is None else new.rows
        if old.masked is not None:
            new.masked = max(old.masked, -np.inf if new.masked is None else new.masked)
        new.contains = (*new.contains, *old.contains)
        self.merged[old] = new


def _extremes(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return (min(numbers), max(numbers)) if numbers else ()


def insert_fake_quantize(
    graph: Graph,
    scheme: QuantizationScheme,
    chosen: Callable[[Any], bool],
    output_names: list[str],
    steps: int | None = None,
) -> Graph:
    """Returns `graph` with a `FakeQuantize` wherever a tensor needs a range.

    Args:
        graph: a graph of single operations (see `expand`).
        scheme: bits of an activation, and how ranges are found.
        chosen: which operations are to run in integers.
        output_names: names of the model's outputs. Exporters name an output after
            its last layer, less the suffix `_quantizer`.
        steps: for the graph of a recurrent layer's step, how many of them there are:
            ranges then have sites for each, and the inputs are rounded already.
    """
    placement = _Placement(graph, chosen)
    placement.names = dict(zip(graph.output_tensors, output_names))
    placement.run(steps is not None)
    made: dict[_Range, FakeQuantize] = {}
    names: set[str] = set()

    def rounding(
        tensor: Tensor, place: tuple[_Range, int | None], again: bool = False
    ) -> Node:
        shared, site = place
        if shared not in made:
            name = f"{scope_name(shared.name)}_quantizer"
            while name in names:
                name += "_"
            names.add(name)
            made[shared] = FakeQuantize(
                scheme.activations or 8,  # with weights alone nothing is placed
                fixed_range=shared.fixed,
                nonnegative=shared.nonnegative,
                sites=max(shared.sites, 1) * (steps or 1),
                symmetric=shared.symmetric,
                # What hides masked scores is no matter of training, nor are factors
                # of whole rows.
                learned=scheme.ranges == "learned"
                and shared.masked is None
                and not shared.covers,
                rows=shared.rows,
                masked=shared.masked,
                covers=shared.covers,
                contains=_extremes(shared.contains),
                within=shared.within,
                name=name,
            )
        rounded = Tensor(tensor.shape, tensor.dtype, tensor.name)
        how = {"site": site, "again": True} if again else {"site": site}
        return Node(made[shared], (tensor,), how, rounded)

    after = {
        t: rounding(t, place, t in placement.again)
        for t, place in placement.after.items()
    }
    swapped = {t: node.output for t, node in after.items()}
    nodes = [after[t] for t in graph.input_tensors if t in after]
    for node in graph.nodes:
        local = dict(swapped)
        for tensor in node.inputs:
            if (node, tensor) in placement.into:
                source = swapped.get(tensor, tensor)
                extra = rounding(source, placement.into[node, tensor], again=True)
                nodes.append(extra)
                local[tensor] = extra.output
        nodes.append(node.reading(local))
        nodes.extend(after[t] for t in node.output_tensors if t in after)
    rounded = dataclasses.replace(graph.substitute(swapped, []), nodes=nodes)
    roundings = {id(layer) for layer in made.values()}
    return with_float_borders(
        rounded,
        lambda node: (
            id(node.operation) not in roundings and placement.flow(node) == "float"
        ),
    )
