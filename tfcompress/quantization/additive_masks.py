"""Masks that are added to scores, as choices between a score and a constant.

`scores + (1 - mask) * -1e9` has two tensors whose ranges have nothing in common: in the
8 bits of the second the first would vanish. What such a sum means is a choice:
`where(mask, scores, -1e9)`, which integers compute with one range, that of the scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.constants import finds_largest
from tfcompress.quantization.expansions.base import MASKED
from tfcompress.quantization.mask_arithmetic import (
    BELOW,
    SHAPES,
    SUMS,
    MaskArithmetic,
    as_array,
    as_bool,
    factor_of,
    for_masks_only,
    operands_of,
)

# A number below all others, where the largest is looked for.
_NOTHING = -1e9


@dataclasses.dataclass
class _Scores:
    """Scores without their masks."""

    tensor: Tensor
    # Tensors or arrays that are true where a score may be seen.
    seen: list


@dataclasses.dataclass
class _Mask:
    """What is added to scores as a mask."""

    # A tensor or an array that is true where a score may be seen.
    seen: Any
    # What is added to the scores that may be seen; None for nothing.
    rest: Any


def with_chosen_scores(
    graph: Graph, chosen: Callable[[Any], bool]
) -> tuple[Graph, list[Any]]:
    """Returns `graph` with masks that are added to scores made choices.

    Beside it: the operations that compute these masks, which are to stay in float.
    """
    masking = _Masking(graph)
    nodes = []
    for node in graph.nodes:
        if chosen(node.operation) and (constant := hidden_by(node)) is not None:
            node = masking.behind_a_choice(node, constant)
        nodes.extend([*masking.added, node])
        masking.added = []
    graph = dataclasses.replace(graph, nodes=_read(graph, nodes))
    return graph, [*masking.arithmetic, *for_masks_only(graph)]


def hidden_by(node: Node) -> float | None:
    """Returns the number that hides a score from an operation; None if none does."""
    if is_softmax(node.operation):
        return MASKED
    # Whatever the range is, its smallest number stands for this one.
    return _NOTHING if finds_largest(node.operation) else None


def is_softmax(operation: Any) -> bool:
    """Returns whether an operation is a softmax, and nothing besides."""
    kinds = layers.Softmax | layers.Activation
    plain = isinstance(operation, kinds) and activation_name(operation) == "softmax"
    return plain or type(operation).__name__ == "Softmax"


class _Masking(MaskArithmetic):
    constant = MASKED

    def behind_a_choice(self, reader: Node, constant: float) -> Node:
        """Returns what reads scores after one choice, if they are masked."""
        self.constant = constant
        scores = self.without_masks(reader.inputs[0])
        tensor = self.chosen(scores) if scores.seen else scores.tensor
        return reader.reading({reader.inputs[0]: tensor})

    def chosen(self, scores: _Scores) -> Tensor:
        """Returns scores after one choice that stands for all their masks."""
        seen, hidden = self.together(scores.seen), self.constant
        if isinstance(seen, Tensor):
            choose = lambda x, s: [ops.where(s, x, hidden)]  # noqa: E731
            return self.add([scores.tensor, seen], choose)[0]
        return self.add([scores.tensor], lambda x: [ops.where(seen, x, hidden)])[0]

    def without_masks(self, tensor: Tensor) -> _Scores:
        """Returns the scores that a tensor is, and which of them may be seen."""
        node = self.producers.get(tensor)
        if node is None or len(node.output_tensors) != 1:
            return _Scores(tensor, [])
        kind = type(node.operation).__name__
        if kind in SUMS and len(operands_of(node)) == 2:
            return self.without_added(node, SUMS[kind])
        if kind == "Where":
            return self.without_chosen(node)
        grows = factor_of(node)
        if kind not in SHAPES and not (grows is not None and grows > 0):
            return _Scores(tensor, [])
        inner = self.without_masks(node.inputs[0])
        source, seen = inner.tensor, inner.seen
        if kind in SHAPES and seen:
            source, seen = self.chosen(inner), []
        if source is node.inputs[0]:
            return _Scores(tensor, [])
        return _Scores(self.again(node, {node.inputs[0]: source}), seen)

    def without_added(self, node: Node, sign: float) -> _Scores:
        operands = operands_of(node)
        rest: list[tuple[Any, float]] = []
        seen: list = []
        for value, other, factor in zip(operands, operands[::-1], (1.0, sign)):
            work = isinstance(other, Tensor) and not self.is_arithmetic(other)
            mask = self.as_mask(value, factor, node.output) if work else None
            if mask is not None:
                seen.append(mask.seen)
                value = mask.rest
            elif isinstance(value, Tensor) and factor > 0:
                inner = self.without_masks(value)
                seen += inner.seen
                value = inner.tensor
            if value is not None:
                rest.append((value, factor))
        if all(value is old for (value, _), old in zip(rest, operands)) and not seen:
            return _Scores(node.output, [])
        if len(rest) == 1:
            return _Scores(rest[0][0], seen)

        def combine(*given: Any) -> list:
            symbolic = iter(given)
            first, second = (
                next(symbolic) if isinstance(value, Tensor) else value
                for value, _ in rest
            )
            return [first + second if rest[1][1] > 0 else first - second]

        tensors = [value for value, _ in rest if isinstance(value, Tensor)]
        (output,) = self.add(tensors, combine)
        return _Scores(output, seen)

    def without_chosen(self, node: Node) -> _Scores:
        """Of `where(mask, scores, -1e9)`, or the other way round."""
        condition, first, second = node.args
        turned = isinstance(second, Tensor) and not isinstance(first, Tensor)
        scores, constant = (second, first) if turned else (first, second)
        both = isinstance(constant, Tensor) or not isinstance(scores, Tensor)
        if both or np.max(as_array(constant)) > BELOW:
            return _Scores(node.output, [])
        inner = self.without_masks(scores)
        if not isinstance(condition, Tensor):
            seen = as_array(condition).astype(bool)
            return _Scores(inner.tensor, [*inner.seen, ~seen if turned else seen])
        turn = ops.logical_not if turned else as_bool
        return _Scores(inner.tensor, [*inner.seen, self.add_mask(condition, turn)])

    def as_mask(self, value: Any, sign: float, output: Tensor) -> _Mask | None:
        """Returns what an added value means as a mask; None for what is none."""
        if not isinstance(value, Tensor):
            return self.known_mask(as_array(value), sign, output.shape[1:])
        if not self.is_arithmetic(value):
            return None
        seen = self.zeros(value, sign)
        if seen is not None:
            return _Mask(seen, None)
        if not self.may_be_far_below(value):
            return None
        copy = self.copied(value)
        seen = self.add_mask(copy, lambda x: ops.greater(x * sign, BELOW))
        begin = len(self.added)

        # A choice has one scale, and the converter would take that of what follows for
        # the mask itself, if nothing were computed in between.
        def visible(x: Any, seen: Any) -> list:
            return [2.0 * ops.where(seen, 0.5 * x, 0.0)]

        rest = self.add([copy, seen], visible)[0]
        self.arithmetic += [node.operation for node in self.added[begin:]]
        return _Mask(seen, rest)

    def known_mask(self, added: np.ndarray, sign: float, shape: Any) -> _Mask | None:
        """Returns what a constant that is added means as a mask."""
        seen = added * sign > BELOW
        if seen.all():
            return None
        rest: Any = np.where(seen, added, 0.0).astype("float32")
        if None not in shape:
            rest = np.broadcast_to(rest, (1, *shape))
        return _Mask(seen, rest if rest.any() else None)


def _read(graph: Graph, nodes: list[Node]) -> list[Node]:
    """Returns the nodes that the outputs depend on."""
    kept: list[Node] = []
    wanted: set[Tensor] = set(graph.output_tensors)
    for node in reversed(nodes):
        if wanted.intersection(node.output_tensors):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
