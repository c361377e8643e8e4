"""What a softmax of 8 bits sees of its scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

# How far below the largest of its row a score weighs nothing in a softmax of 8 bits
# (exp(-12) is a 640th of half a step), and what is masked has to be.
_UNSEEN = 12.0
# Half a step of a softmax of 8 bits.
_HALF_STEP = 1 / 512
# Rows whose largest score is no larger than this are masked as a whole.
_HIDDEN = -1e4


def seen_by_softmax(scores: Any, axis: int, masked: float | None) -> tuple[Any, Any]:
    """Returns the smallest score that weighs anything in its row, and the largest.

    Rows that are masked as a whole do not count: equal scores weigh the same wherever
    they are cut off.

    Args:
        scores: what a softmax reads.
        axis: along which it reads.
        masked: the largest score that stands for "must not be seen"; None without.
    """
    scores = ops.cast(scores, "float32")
    largest = ops.max(scores, axis=axis)
    hidden = _HIDDEN if masked is None else max(masked, _HIDDEN)
    seen = largest > hidden
    high = ops.max(ops.where(seen, largest, -np.inf))
    low = ops.min(ops.where(seen, largest, np.inf))
    high, low = (ops.where(ops.any(seen), end, 0.0) for end in (high, low))
    low -= _unseen(scores.shape[axis])
    if masked is None:
        low = ops.maximum(low, ops.min(scores))
    return low, high


def _unseen(length: int | None) -> float:
    """Returns how far below the largest of `length` scores all others are unseen.

    Together, too, they weigh less than half a step.
    """
    return max(_UNSEEN, math.log((length or 1) / _HALF_STEP))
