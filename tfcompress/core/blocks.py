"""What is counted in large tensors, a block at a time.

An operation writes its whole result before the next one reads it: to compare twenty
million weights, to make integers of the answers and to add these up takes 100 MB for
one number. Of a block it takes little, which stays in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

#: Tensors of more numbers are held in as few bytes as will do; smaller ones in the type
#: that a step reads them in, which is faster.
LARGE = 2**18
# With fewer, walking through the loop takes as long as counting.
BLOCK = 2**19


def count(condition: Callable[[Any], Any], values: Any) -> Any:
    """Returns at how many places of a tensor a condition holds, as int32.

    Args:
        condition: returns for each of some values whether it does.
        values: a tensor or a variable; its shape must be known.

    Example:

    >>> int(count(lambda value: value > 1, ops.array([[0.0, 2.0], [3.0, 1.0]])))
    2
    """

    def counted(part: Any) -> Any:
        return ops.sum(ops.cast(condition(part), "int32"))

    values = ops.convert_to_tensor(values)
    size = math.prod(values.shape)
    if size <= BLOCK:
        return counted(values)
    flat = ops.reshape(values, (size,))
    blocks = size // BLOCK

    def add(block: Any, total: Any) -> tuple[Any, Any]:
        part = ops.slice(flat, (block * BLOCK,), (BLOCK,))
        return block + 1, total + counted(part)

    start = ops.zeros((), "int32")
    _, total = ops.while_loop(lambda block, _: block < blocks, add, (start, start))
    return total + counted(flat[blocks * BLOCK :]) if size % BLOCK else total


def occurrences(codes: np.ndarray, base: int) -> np.ndarray:
    """Returns how often each code below `base` occurs.

    NumPy counts in integers of 8 bytes, so of a block at a time.

    >>> occurrences(np.array([1, 3, 1], "uint8"), 4).tolist()
    [0, 2, 0, 1]
    """
    found = np.zeros(base, "int64")
    for start in range(0, len(codes), BLOCK):
        found += np.bincount(codes[start : start + BLOCK], minlength=base)
    return found


def nonzero(values: Any) -> int:
    """Returns how many values are not zero, outside of a graph.

    >>> nonzero(ops.array([0.0, 2.0, -0.0]))
    1
    """
    return int(count(lambda part: ops.not_equal(part, 0), values))
