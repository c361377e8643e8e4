"""Masks: choosing which weights to keep, in compiled code."""

from __future__ import annotations

import math
from typing import Any

from keras import ops


def kept_count(size: int, sparsity: Any) -> Any:
    """Returns how many of `size` units remain at `sparsity`; at least one does."""
    kept = ops.round(float(size) * (1.0 - sparsity))
    return ops.cast(ops.maximum(kept, 1.0), "int32")


def keep_threshold(scores: list[Any], keep: Any) -> Any:
    """Returns the largest `t` for which at least `keep` scores are `>= t`.

    A sort of all scores is what makes mask updates slow; a bisection on the value
    only counts, once per pass, and stops as soon as the count is right (about
    log2(n) passes). It runs over several tensors without joining them.

    Args:
        scores: tensors of scores, together the candidates.
        keep: how many must remain, an int32 tensor.

    Example:

    >>> scores = [ops.array([3.0, 1.0, 2.0]), ops.array([5.0, 4.0])]
    >>> float(keep_threshold(scores, ops.array(2))) > 3.0
    True
    """

    def count(threshold: Any) -> Any:
        kept = [ops.sum(ops.cast(s >= threshold, "int32")) for s in scores]
        return sum(kept[1:], kept[0])

    lowest = ops.min(ops.stack([ops.min(s) for s in scores]))
    highest = ops.max(ops.stack([ops.max(s) for s in scores]))
    size = sum(math.prod(s.shape) for s in scores)

    def searching(low: Any, high: Any, low_count: Any) -> Any:
        middle = 0.5 * (low + high)
        between = ops.logical_and(middle > low, middle < high)
        return ops.logical_and(ops.not_equal(low_count, keep), between)

    def halve(low: Any, high: Any, low_count: Any) -> tuple:
        middle = 0.5 * (low + high)
        middle_count = count(middle)
        enough = middle_count >= keep
        return (
            ops.where(enough, middle, low),
            ops.where(enough, high, middle),
            ops.where(enough, middle_count, low_count),
        )

    low, _, _ = ops.while_loop(
        searching, halve, (lowest, highest, ops.convert_to_tensor(size, "int32"))
    )
    # The bisection never tries the largest score itself.
    return ops.where(count(highest) >= keep, highest, low)


def layer_masks(scores: list[Any], sparsity: Any) -> list[Any]:
    """Returns a mask per tensor that leaves each at `sparsity` on its own."""
    masks = []
    for score in scores:
        keep = kept_count(math.prod(score.shape), sparsity)
        masks.append(score >= keep_threshold([score], keep))
    return masks


def global_masks(scores: list[Any], sparsity: Any) -> list[Any]:
    """Returns a mask per tensor that leaves them at `sparsity` all together."""
    size = sum(math.prod(score.shape) for score in scores)
    threshold = keep_threshold(scores, kept_count(size, sparsity))
    return [score >= threshold for score in scores]
