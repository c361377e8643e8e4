"""What masks are made with: simple operations on inputs and flags."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.copies import clone_operation
from tfcompress.core.graph import Graph, Node, Tensor, trace_function

# What adds no more than this to a score masks it: exp(-50) weighs nothing.
BELOW = -50.0
# What multiplies a mask of zeros and ones by at least this leaves only these two.
HUGE = 1e3

SUMS = {"Add": 1.0, "Subtract": -1.0}
SCALES = frozenset(("Multiply", "Divide", "TrueDivide"))
SHAPES = frozenset(
    ("BroadcastTo", "ExpandDims", "Flatten", "GetItem", "Identity", "Moveaxis")
    + ("Permute", "Repeat", "RepeatVector", "Reshape", "Slice", "Squeeze", "Swapaxes")
    + ("Tile", "Transpose")
)
# Operations that masks are made with. They are no work, and stay what they are.
ARITHMETIC = frozenset(
    ("Absolute", "Abs", "Add", "Cast", "Clip", "Concatenate", "Cumsum", "Divide")
    + ("FullLike", "Lambda", "Log", "Max", "Maximum", "Min", "Minimum", "Multiply")
    + ("Negative", "OnesLike", "Rescaling", "Sign", "Stack", "Subtract", "Sum", "Tril")
    + ("Triu", "TrueDivide", "Where", "ZerosLike", *SHAPES)
)


class MaskArithmetic:
    """Reads what masks of a graph mean, and adds nodes that say it more simply."""

    def __init__(self, graph: Graph):
        self.producers = graph.producers()
        self.inputs = set(graph.input_tensors)
        self.consumers = graph.consumers()
        self.added: list[Node] = []
        self.arithmetic: list[Any] = []

    def together(self, masks: list) -> Any:
        """Returns where all masks, tensors or arrays, are true."""
        known = [mask for mask in masks if not isinstance(mask, Tensor)]
        tensors = [mask for mask in masks if isinstance(mask, Tensor)]
        array = functools.reduce(np.logical_and, known) if known else None
        if not tensors:
            return array

        def both(*given: Any) -> list:
            given = given if array is None else (array, *given)
            return [functools.reduce(ops.logical_and, given)]

        return tensors[0] if len(masks) == 1 else self.add(tensors, both)[0]

    def add(self, tensors: list[Tensor], function: Callable[..., list]) -> list[Tensor]:
        nodes, outputs = trace_function(tensors, function)
        self.added += nodes
        return outputs

    def add_mask(self, tensor: Tensor, function: Callable) -> Tensor:
        """Computes one mask from another, in float."""
        begin = len(self.added)
        (output,) = self.add([tensor], lambda x: [function(x)])
        self.arithmetic += [node.operation for node in self.added[begin:]]
        return output

    def zeros(self, value: Any, scale: float) -> Any:
        """Returns where `scale * value` is zero, if it is far from it elsewhere.

        None where that is not known from how the value is made.
        """
        if not isinstance(value, Tensor):
            array = np.abs(as_array(value) * scale)
            return array == 0 if ((array == 0) | (array >= -BELOW)).all() else None
        if not is_float(value):
            return None
        node = self.producers.get(value)
        if node is not None:
            kind, factor = type(node.operation).__name__, factor_of(node)
            if factor is not None or kind == "Negative":
                return self.zeros(
                    node.inputs[0], scale * (-1.0 if factor is None else factor)
                )
            if kind in SHAPES:
                source = node.inputs[0]
                inner = self.zeros(source, scale)
                same = isinstance(inner, Tensor)
                return self.again(node, {source: inner}, "bool") if same else None
            if kind in ("Maximum", "Add"):
                parts = [self.zeros(operand, scale) for operand in operands_of(node)]
                return None if any(p is None for p in parts) else self.together(parts)
            if kind == "Where":
                chosen = self.zeros_of_choice(node, scale)
                if chosen is not None:
                    return chosen
        return self.zeros_of_flags(value, node) if abs(scale) >= HUGE else None

    def zeros_of_choice(self, node: Node, scale: float) -> Tensor | None:
        """Of a choice between zero and a number far from it."""
        condition, *values = node.args
        if not isinstance(condition, Tensor) or any(
            isinstance(value, Tensor) for value in values
        ):
            return None
        first, second = (self.zeros(value, scale) for value in values)
        if first is None or second is None or first.size * second.size != 1:
            return None
        if first.item() == second.item():
            return None
        return self.add_mask(condition, as_bool if first.item() else ops.logical_not)

    def zeros_of_flags(self, value: Tensor, node: Node | None) -> Tensor:
        """Of a mask of zeros and ones, or one less it."""
        if node is not None and type(node.operation).__name__ == "Subtract":
            one = any(is_number(v) and np.all(as_array(v) == 1) for v in node.args)
            seen = self.flags(node.inputs[0], 1) if one and node.inputs else None
        else:
            seen = self.flags(value, 0)
        if seen is not None:
            return seen
        copy = self.copied(value)
        return self.add_mask(copy, lambda x: ops.less(ops.absolute(x), -BELOW / HUGE))

    def flags(self, value: Tensor, wanted: int) -> Tensor | None:
        """Returns where a mask of integers or booleans, as numbers, is `wanted`."""
        node = self.producers.get(value)
        if node is None or len(node.inputs) != 1:
            return None
        (source,) = node.inputs
        if type(node.operation).__name__ in SHAPES:
            inner = self.flags(source, wanted)
            return inner and self.again(node, {source: inner}, "bool")
        if type(node.operation).__name__ != "Cast" or is_float(source):
            return None
        if source.dtype == "bool":
            return source if wanted else self.add_mask(source, ops.logical_not)
        return self.add_mask(source, lambda x: ops.equal(x, wanted))

    def is_arithmetic(self, tensor: Tensor) -> bool:
        """Returns whether a tensor is made of inputs and masks by simple operations."""
        if not is_float(tensor) or tensor in self.inputs:
            return True
        node = self.producers[tensor]
        simple = type(node.operation).__name__ in ARITHMETIC
        return simple and all(self.is_arithmetic(t) for t in node.inputs)

    def may_be_far_below(self, tensor: Tensor) -> bool:
        """Returns whether a tensor may hold masks: its numbers are not known.

        It comes from an input that nobody reads for anything else, from a logarithm, or
        from a function that cannot be looked into.
        """
        node = self.producers.get(tensor)
        if node is None:
            return is_float(tensor) and self.is_only_added(tensor)
        if type(node.operation).__name__ in ("Log", "Lambda"):
            return True
        constants = [as_array(leaf) for leaf in node.args if is_number(leaf)]
        if any(np.abs(constant).max() >= -BELOW for constant in constants):
            return True
        return any(self.may_be_far_below(t) for t in node.inputs)

    def is_only_added(self, tensor: Tensor) -> bool:
        """Returns whether a tensor is read by simple operations alone."""
        return all(
            type(reader.operation).__name__ in (*SUMS, *SCALES, *SHAPES, "Negative")
            and (
                any(not self.is_arithmetic(t) for t in reader.inputs)
                or all(map(self.is_only_added, reader.output_tensors))
            )
            for reader in self.consumers.get(tensor, [])
        )

    def copied(self, tensor: Tensor) -> Tensor:
        """Returns a tensor that is computed by operations of its own, all in float."""
        node = self.producers.get(tensor)
        if node is None or not is_float(tensor):
            return tensor
        mapping = {t: self.copied(t) for t in node.inputs}
        output = self.again(node, mapping)
        self.arithmetic.append(self.added[-1].operation)
        return output

    def again(self, node: Node, mapping: dict, dtype: str | None = None) -> Tensor:
        """Returns what a node puts out if it reads something else."""
        output = Tensor(node.output.shape, dtype or node.output.dtype)
        operation = clone_operation(node.operation)
        node = dataclasses.replace(node.reading(mapping), operation=operation)
        self.added.append(dataclasses.replace(node, outputs=output))
        return output


def for_masks_only(graph: Graph) -> list[Any]:
    """Returns the simple operations whose numbers only say what may be seen."""
    consumers, outputs = graph.consumers(), set(graph.output_tensors)
    found: set[Node] = set()

    def is_mask(tensor: Tensor, reader: Node) -> bool:
        if reader in found or all(t.dtype == "bool" for t in reader.output_tensors):
            return True
        if type(reader.operation).__name__ == "Where":
            return not any(tensor is value for value in reader.args[1:])
        named = [v for name, v in reader.kwargs.items() if "mask" not in name]
        return not any(
            leaf is tensor for leaf in keras.tree.flatten((reader.args, named))
        )

    for node in reversed(graph.nodes):
        readers = [(t, r) for t in node.output_tensors for r in consumers.get(t, [])]
        simple = type(node.operation).__name__ in ARITHMETIC
        inside = readers and not outputs.intersection(node.output_tensors)
        if simple and inside and all(is_mask(*read) for read in readers):
            found.add(node)
    others = {id(node.operation) for node in graph.nodes if node not in found}
    return [node.operation for node in found if id(node.operation) not in others]


def factor_of(node: Node) -> float | None:
    """Returns the one number that a node multiplies a tensor with, if it does so."""
    if isinstance(node.operation, layers.Rescaling):
        scale = np.asarray(node.operation.scale)
        plain = scale.size == 1 and not np.any(node.operation.offset)
        return scale.item() if plain else None
    kind, operands = type(node.operation).__name__, operands_of(node)
    if kind not in SCALES or len(operands) != 2:
        return None
    numbers = [as_array(value) for value in operands if is_number(value)]
    divided = kind != "Multiply"
    if (
        len(numbers) != 1
        or numbers[0].size != 1
        or (divided and is_number(operands[0]))
    ):
        return None
    number = float(numbers[0].item())
    return 1 / number if divided and number else number


def is_float(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(("float", "bfloat"))


def as_bool(mask: Any) -> Any:
    return ops.cast(mask, "bool")


def operands_of(node: Node) -> list:
    """Returns what an operation of `keras.ops`, or a merging layer, combines."""
    if isinstance(node.operation, keras.Layer):
        return list(node.args[0]) if isinstance(node.args[0], list | tuple) else []
    return [*node.args, *node.kwargs.values()]


def is_number(leaf: Any) -> bool:
    if isinstance(leaf, bool | str) or leaf is None:
        return False
    return isinstance(leaf, int | float | np.ndarray) or ops.is_tensor(leaf)


def as_array(value: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(value))
