"""What a served graph computes of a byte, for all bytes that there are.

A tensor that is cut off to whole numbers between two ends has so few values that a
claim about what is computed of them is proved by trying them all.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.graph import with_port
from tfcompress.exporters.saved_model.served_nodes import Served
from tfcompress.exporters.saved_model.whole_numbers import bounds, is_whole

# More values than these are no byte.
_MOST = 512
_SAME_ORDER = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims"})
_MOVED = _SAME_ORDER | {"StridedSlice", "Transpose"}
# NumPy computes them as TensorFlow does: each result is the nearest float.
_EXACT: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "AddV2": np.add,
    "ClipByValue": lambda x, low, high: np.maximum(np.minimum(x, high), low),
    "Floor": np.floor,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "RealDiv": np.divide,
    "Rint": np.rint,
    "Round": np.rint,
    "Sign": np.sign,
    "Sub": np.subtract,
}
# A convolution of one channel by one number adds its only product to zero.
_EXACT["DepthwiseConv2dNative"] = lambda x, weight: x * weight + np.float32(0)
# TensorFlow itself computes these, and not for every length of a vector alike.
_CURVED = frozenset({"Exp", "Log", "Rsqrt", "Sigmoid", "Sqrt", "Tanh"})
_ULPS = 2


@dataclasses.dataclass(frozen=True)
class Byte:
    """A tensor of whole numbers between two ends.

    Attributes:
        tensor: its name.
        low: the least number.
        high: the largest number.
    """

    tensor: str
    low: int
    high: int

    @functools.cached_property
    def values(self) -> np.ndarray:
        """All that it can hold, as float32; behind it minus zero and no number."""
        numbers = np.arange(self.low, self.high + 1)
        return np.append(numbers, [-0.0, np.nan]).astype("float32")


def byte(served: Served, tensor: str) -> Byte | None:
    """Returns what a tensor can hold, if it is cut off to few whole numbers."""
    node = served.maker(tensor)
    while node is not None and node.op in _MOVED:
        node = served.maker(node.input[0])
    ends = bounds(served, node) if node is not None else None
    if ends is None or not 0 <= ends[1] - ends[0] < _MOST:
        return None
    if not is_whole(served, node.name):
        return None
    return Byte(served.passed_on(tensor), int(ends[0]), int(ends[1]))


class Functions:
    """Tensors that are computed of one byte, number by number.

    Args:
        served: the graph.
    """

    def __init__(self, served: Served):
        self._served = served
        self._found: dict[tuple[str, bool], Byte | None] = {}

    def source(self, tensor: str, far: bool = True) -> Byte | None:
        """Returns the byte that a tensor is computed of.

        Args:
            tensor: its name.
            far: whether to go on where that byte is computed of another one.
        """
        key = self._served.passed_on(tensor), far
        if key not in self._found:
            self._found[key] = self._source(*key)
        return self._found[key]

    def _source(self, tensor: str, far: bool) -> Byte | None:
        own = byte(self._served, tensor)
        if own is not None and not far:
            return own
        node = self._served.maker(tensor)
        if node is None or not tensor.endswith(":0"):
            return own
        varying = self.varying(node)
        sources = {self.source(one, far) for one in varying or ()}
        found = sources.pop() if len(sources) == 1 else None
        return found or own

    def varying(self, node: Any) -> list[str] | None:
        """Returns the inputs of a function of numbers that are not one constant."""
        if node.op in _SAME_ORDER:
            return [node.input[0]]
        if node.op not in _EXACT and node.op not in _CURVED | {"Cast"}:
            return None
        found = [one for one in node.input if self._number(one) is None]
        shape = self._served.shape(node.name)
        same = shape is not None and all(self._served.shape(f) == shape for f in found)
        return found if same else None

    def inside(self, tensor: str, source: Byte) -> set[str]:
        """Returns the operations between a byte and what is computed of it."""
        found: set[str] = set()
        waiting = [tensor]
        while waiting:
            one = waiting.pop()
            node = self._served.maker(one)
            begun = self._served.passed_on(one) == source.tensor
            if begun or node is None or node.name in found:
                continue
            if node.op not in _SAME_ORDER:
                found.add(node.name)
            waiting += self.varying(node) or []
        return found

    def values(self, tensor: str, source: Byte) -> np.ndarray | None:
        """Returns a tensor for all `Byte.values`; None if that is not certain."""
        ways = [self._values(tensor, source, ulps, {}) for ulps in (0, -_ULPS, _ULPS)]
        same = all(_same(ways[0], way) for way in ways)
        return ways[0] if same else None

    def _values(self, tensor: str, source: Byte, ulps: int, known: dict) -> np.ndarray:
        if self._served.passed_on(tensor) == source.tensor:
            return source.values
        number = self._number(tensor)
        if number is not None:
            return number
        node = self._served.maker(tensor)
        if node.name not in known:
            count = 1 if node.op in _SAME_ORDER else len(node.input)
            inputs = [
                self._values(one, source, ulps, known) for one in node.input[:count]
            ]
            known[node.name] = _computed(node, inputs, ulps)
        return known[node.name]

    def _number(self, tensor: str) -> np.ndarray | None:
        key = with_port(tensor)
        value = self._served.values.get(key, self._served.weights.get(key))
        return value.reshape(()) if value is not None and value.size == 1 else None


def _computed(node: Any, inputs: list[np.ndarray], ulps: int) -> np.ndarray:
    import tensorflow as tf

    with np.errstate(all="ignore"):
        if node.op in _SAME_ORDER:
            return inputs[0]
        if node.op == "Cast":
            kind = tf.dtypes.as_dtype(node.attr["DstT"].type)
            return inputs[0].astype(kind.as_numpy_dtype)
        if node.op in _EXACT:
            return _EXACT[node.op](*inputs)
        found = getattr(tf.raw_ops, node.op)(x=tf.constant(inputs[0])).numpy()
        for _ in range(abs(ulps)):
            found = np.nextafter(found, np.copysign(np.inf, ulps).astype(found.dtype))
        return found


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one[:-1].tobytes() == other[:-1].tobytes()
