"""Numbers that an operation brings into a graph itself.

A tensor that is padded with -1, or is at least 1.5, holds a number that no data led to.
Integers cannot leave their range, so the range has to contain it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tfcompress.core.errors import warn
from tfcompress.core.graph import Graph, Node, Tensor, trace_function
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.float_border import border

# A range that reaches so far leaves nothing of numbers around one.
_FARTHEST = 1e4
# What reads a number that stands for "nothing" and never puts it out.
_LARGEST = frozenset({"Max", "Amax", "Argmax", "Maximum", "MaxPool"})
_SMALLEST = frozenset({"Min", "Amin", "Argmin", "Minimum"})
_READERS_OF_LARGEST = _LARGEST | {
    *("GlobalMaxPooling1D", "GlobalMaxPooling2D"),
    *("MaxPooling1D", "MaxPooling2D"),
}
# Of whole axes: of a window, or of two tensors, the number may be all there is.
_OF_ALL = frozenset(
    {"Max", "Amax", "Argmax", "GlobalMaxPooling1D", "GlobalMaxPooling2D"}
)
# Comparisons: with their sides changed, and the function that asks them.
_COMPARISONS: dict[str, tuple[str, Callable]] = {
    "Greater": ("Less", ops.greater),
    "GreaterEqual": ("LessEqual", ops.greater_equal),
    "Less": ("Greater", ops.less),
    "LessEqual": ("GreaterEqual", ops.less_equal),
    "Equal": ("Equal", ops.equal),
    "NotEqual": ("NotEqual", ops.not_equal),
}
# A number is compared with one beside a value, in steps, so that the noise of floats
# has no say; integers round it to that value.
_BESIDE = 0.25
# LiteRT's kernels compare whole multiples of this number, whatever the scales are.
_COMPARED_STEP = 1 / 256
_ARGUMENTS = {
    **dict.fromkeys(("Maximum", "Minimum", "Where"), ("x1", "x2")),
    **dict.fromkeys(("Concatenate", "Stack"), ("xs", "x")),
    "Pad": ("constant_values",),
}


def finds_largest(operation: Any) -> bool:
    """Returns whether an operation looks for the largest number along an axis."""
    return type(operation).__name__ in _OF_ALL


def has_numbers(node: Node) -> bool:
    """Returns whether an operation puts out numbers that are in none of its tensors."""
    return any(number != 0 for ends in _constants(node) for number in ends)


def own_numbers(node: Node) -> tuple[float, ...]:
    """Returns the numbers that the range of what `node` makes has to contain.

    Those out of reach are left out: a `where(seen, x, -1e9)` in front of a maximum
    means the smallest number there is, and that is what a range gives it.
    """
    numbers = dict.fromkeys(_put_out(node))
    return tuple(number for number in numbers if abs(number) <= _FARTHEST)


def out_of_reach(graph: Graph, passes_on: Callable[[Node], bool]) -> dict[Node, float]:
    """Returns the nodes that put out a number that no useful range contains.

    Args:
        graph: a graph of single operations.
        passes_on: whether a node passes some of its input's numbers on.
    """
    consumers = graph.consumers()
    outputs = set(graph.output_tensors)

    def ends(tensor: Tensor, readers: frozenset[str]) -> bool:
        """Whether only a softmax, or what looks for another number, reads a tensor."""
        return tensor not in outputs and all(
            type(reader.operation).__name__ in readers
            or activation_name(reader.operation) in ("softmax", "log_softmax")
            or (
                passes_on(reader)
                and all(ends(made, readers) for made in reader.output_tensors)
            )
            for reader in consumers.get(tensor, [])
        )

    far: dict[Node, float] = {}
    for node in graph.nodes:
        for number in _put_out(node):
            readers = _READERS_OF_LARGEST if number < 0 else _SMALLEST
            harmless = all(ends(made, readers) for made in node.output_tensors)
            if not abs(number) <= _FARTHEST and not harmless:
                far[node] = number
    return far


def _put_out(node: Node) -> list[float]:
    kind, constants = type(node.operation).__name__, _constants(node)
    # Of a tensor and a number below its range, the larger is never the number.
    if kind in _LARGEST:
        return [high for _, high in constants if high > 0]
    if kind in _SMALLEST:
        return [low for low, _ in constants if low < 0]
    return [number for ends in constants for number in ends]


def _constants(node: Node) -> list[tuple[float, float]]:
    """Returns the smallest and largest number of each constant of a node."""
    kind = type(node.operation).__name__
    if kind in ("Max", "Amax", "Min", "Amin"):
        values = [getattr(node.operation, "initial", None)]
    elif kind in _ARGUMENTS:
        call = inspect.signature(node.operation.call)
        given = call.bind_partial(*node.args, **node.kwargs).arguments
        values = [given.get(name) for name in _ARGUMENTS[kind]]
    else:
        return []
    return [_ends(value) for value in _leaves(values)]


def _leaves(values: list) -> list:
    flat: list = []
    for value in values:
        if isinstance(value, list | tuple):
            flat += _leaves(list(value))
        elif value is not None and not isinstance(value, Tensor):
            flat.append(value)
    return flat


def _ends(value: Any) -> tuple[float, float]:
    array = np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(value)), "float64")
    return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)


def with_constants_on_grids(
    graph: Graph, rounding_before: Callable[[Tensor, dict], FakeQuantize | None]
) -> Graph:
    """Returns `graph` with the constants that integers stand for.

    A converter rounds them in its own way, half-way cases and bounds among them.
    Comparisons of numbers too small for integer kernels are left to float ones.

    Args:
        graph: a graph with fixed ranges.
        rounding_before: returns what rounded a tensor last, given what makes each.
    """
    producers, consumers = graph.producers(), graph.consumers()
    in_float: list[str] = []

    def settled(node: Node) -> list[Node]:
        kind = type(node.operation).__name__
        if kind in _COMPARISONS:
            found = [rounding_before(one, producers) for one in node.inputs]
            roundings = [one for one in found if one is not None]
            if len(roundings) < len(found):
                return [node]
            if len(roundings) == 1:
                node = _comparison(node, roundings[0])
            if _is_compared(roundings):
                return [node]
            in_float.append(node.name)
            return _compared_in_float(node)
        if kind not in _ARGUMENTS or not has_numbers(node):
            return [node]
        readers = [n.operation for n in consumers.get(node.output, [])]
        after = [one for one in readers if isinstance(one, FakeQuantize)]
        return [_with_constants(node, after[0].rounded) if after else node]

    nodes = [made for node in graph.nodes for made in settled(node)]
    if in_float:
        warn(
            f"These comparisons stay in float: {', '.join(in_float)}. Integer kernels "
            "compare multiples of 1/256, and these numbers lie closer together; "
            "scale them up before they are compared."
        )
    return dataclasses.replace(graph, nodes=nodes)


def _is_compared(roundings: list) -> bool:
    """Returns whether integer kernels tell the values of tensors apart.

    Args:
        roundings: what rounds the one tensor that is compared with a number beside its
            values, or two tensors that are compared with each other.
    """
    first, last = roundings[0], roundings[-1]
    nearest = 1 - _BESIDE if len(roundings) == 1 else 1.0
    return first is last and nearest * first.step() > 1.01 * _COMPARED_STEP


def _compared_in_float(node: Node) -> list[Node]:
    borders = {
        tensor: border(f"{node.name}_border", tensor, Tensor(tensor.shape, "float32"))
        for tensor in dict.fromkeys(node.inputs)
    }
    floats = {tensor: one.output for tensor, one in borders.items()}
    return [*borders.values(), node.reading(floats)]


def _with_constants(node: Node, change: Callable[[Any], Any]) -> Node:
    call = inspect.signature(node.operation.call)
    bound = call.bind_partial(*node.args, **node.kwargs)
    for name in set(_ARGUMENTS[type(node.operation).__name__]) & set(bound.arguments):
        bound.arguments[name] = _changed(bound.arguments[name], change)
    return dataclasses.replace(node, args=bound.args, kwargs=bound.kwargs)


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_changed(one, change) for one in value)
    return value if value is None or isinstance(value, Tensor) else change(value)


def _comparison(node: Node, rounding: FakeQuantize) -> Node:
    """Returns a comparison with a number that integers compare with, and its answer."""
    x1, x2 = node.args
    kind = type(node.operation).__name__
    tensor, value = (x1, x2) if isinstance(x1, Tensor) else (x2, x1)
    if tensor is x2:
        kind = _COMPARISONS[kind][0]
    number = np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(value)), "float64")
    low, high = rounding.learned_range()
    step = rounding.step()
    position = number / step
    nearest = np.round(position)
    position = np.where(np.abs(position - nearest) < 1e-4, nearest, position)
    if kind in ("Greater", "LessEqual"):
        if np.all(number < low - step / 2):
            # Even the smallest value is larger.
            kind = {"Greater": "GreaterEqual", "LessEqual": "Less"}[kind]
            position = np.full_like(position, low / step) - _BESIDE
        else:
            position = np.clip(np.floor(position), low / step, high / step) + _BESIDE
    elif kind in ("Less", "GreaterEqual"):
        if np.all(number > high + step / 2):
            kind = {"Less": "LessEqual", "GreaterEqual": "Greater"}[kind]
            position = np.full_like(position, high / step) + _BESIDE
        else:
            position = np.clip(np.ceil(position), low / step, high / step) - _BESIDE
    value = (position * step).astype("float32")
    if kind in ("Equal", "NotEqual"):
        value = rounding.rounded(value)
    compare = _COMPARISONS[kind][1]
    (compared,), _ = trace_function([tensor], lambda x: [compare(x, value)])
    return dataclasses.replace(compared, outputs=node.outputs)
