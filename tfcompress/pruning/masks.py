"""Masks: choosing which weights to keep, in compiled code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tfcompress.core.blocks import count

# What a balanced ranking leaves a tensor at least, of the share that all keep: with
# less, a layer between others starves (docs/pruning.md has the figures).
_LEAST = 0.5


def kept_count(size: int, sparsity: Any) -> Any:
    """Returns how many of `size` units remain at `sparsity`; at least one does."""
    kept = ops.round(float(size) * (1.0 - sparsity))
    return ops.cast(ops.maximum(kept, 1.0), "int32")


def top_masks(scores: list[Any], keep: Any, near: Any = None) -> list[Any]:
    """Returns masks of the `keep` largest scores of all tensors together.

    A sort of all scores is what makes mask updates slow; a bisection on the value
    only counts, once per pass, and stops as soon as the count is right (about
    log2(n) passes). It runs over several tensors without joining them. Among equal
    scores the first ones are kept, so the count is always exact.

    Args:
        scores: tensors of scores, together the candidates.
        keep: how many must remain, an int32 tensor from 0 to the number of scores.
        near: two scores that the threshold is likely to lie between.

    Example:

    >>> scores = [ops.array([3.0, 1.0, 3.0]), ops.array([5.0, 3.0])]
    >>> [m.numpy().tolist() for m in top_masks(scores, ops.array(2))]
    [[True, False, False], [True, False]]
    """

    def reaching(threshold: Any) -> Any:
        return sum(_reaching(threshold, score) for score in scores)

    low, high = _between(scores, keep, reaching, near)
    return ops.cond(
        ops.equal(reaching(low), keep),
        lambda: [score >= low for score in scores],
        lambda: _first_of_equals(scores, low, high, keep),
    )


def _between(
    scores: list[Any], keep: Any, reaching: Callable[[Any], Any], near: Any = None
) -> tuple:
    """Returns a score from which on `keep` or more are counted, and one with fewer.

    If no score has exactly `keep`, the two are neighbours among float32 numbers.
    """
    lowest = ops.min(ops.stack([ops.min(s) for s in scores]))
    highest = ops.max(ops.stack([ops.max(s) for s in scores]))
    size = ops.convert_to_tensor(sum(math.prod(s.shape) for s in scores), "int32")
    start = (lowest, highest, size)
    if near is not None:
        low, high = near
        low_count = reaching(low)
        enough, few = low_count >= keep, reaching(high) < keep
        start = (
            ops.where(enough, low, lowest),
            ops.where(few, ops.minimum(high, highest), highest),
            ops.where(enough, low_count, size),
        )

    def searching(low: Any, high: Any, low_count: Any) -> Any:
        middle = 0.5 * (low + high)
        between = ops.logical_and(middle > low, middle < high)
        return ops.logical_and(ops.not_equal(low_count, keep), between)

    def halve(low: Any, high: Any, low_count: Any) -> tuple:
        middle = 0.5 * (low + high)
        middle_count = reaching(middle)
        enough = middle_count >= keep
        return (
            ops.where(enough, middle, low),
            ops.where(enough, high, middle),
            ops.where(enough, middle_count, low_count),
        )

    low, high, _ = ops.while_loop(searching, halve, start)
    # The bisection never tries the largest score itself.
    low = ops.where(reaching(highest) >= keep, highest, low)
    return low, ops.where(high > low, high, np.inf)


def _first_of_equals(scores: list[Any], low: Any, high: Any, keep: Any) -> list[Any]:
    """Returns the masks of scores >= `high` and of the first ones in [low, high)."""
    above = [score >= high for score in scores]
    room = keep - sum(_count(mask) for mask in above)
    masks = []
    for score, mask in zip(scores, above):
        equal = ops.logical_and(score >= low, score < high)
        order = ops.cumsum(ops.reshape(ops.cast(equal, "int32"), (-1,)))
        first = ops.logical_and(equal, ops.reshape(order, score.shape) <= room)
        room = room - order[-1]
        masks.append(ops.logical_or(mask, first))
    return masks


def layer_masks(
    scores: list[Any],
    sparsity: Any,
    granule: int = 1,
    held: list[float] | None = None,
) -> list[Any]:
    """Returns a mask per tensor that leaves each at `sparsity` on its own.

    Args:
        scores: a tensor of unit scores per kernel.
        sparsity: share of units that go, in [0, 1).
        granule: the number of units kept is rounded up to a multiple of this.
        held: shares of each tensor that go at least.
    """
    masks = []
    for score, least in zip(scores, held or [0.0] * len(scores)):
        share = ops.maximum(sparsity, least) if least else sparsity
        keep = kept_count(math.prod(score.shape), share)
        masks.append(_rounded(score, keep, granule))
    return masks


def global_masks(
    scores: list[Any],
    sparsity: Any,
    granule: int = 1,
    held: list[float] | None = None,
) -> list[Any]:
    """Returns a mask per tensor that leaves them at `sparsity` all together."""
    sizes = [math.prod(score.shape) for score in scores]
    sparsity = _not_below(sparsity, held, sizes)
    masks = top_masks(scores, kept_count(sum(sizes), sparsity))
    if granule == 1:
        return masks
    return [_rounded(s, _count(mask), granule) for s, mask in zip(scores, masks)]


def balanced_masks(
    scores: list[Any],
    sparsity: Any,
    granule: int = 1,
    held: list[float] | None = None,
) -> list[Any]:
    """Returns the masks of one ranking of all, in which no tensor starves.

    All together are left at `sparsity`; each keeps at least half the share that all of
    them keep.
    """
    sizes = [math.prod(score.shape) for score in scores]
    sparsity = _not_below(sparsity, held, sizes)
    share = _LEAST * (1.0 - sparsity)
    least = [kept_count(size, 1.0 - share) for size in sizes]
    kept, near = _kept_of_each(scores, kept_count(sum(sizes), sparsity), least)
    return [_rounded(score, keep, granule, near) for score, keep in zip(scores, kept)]


def _kept_of_each(scores: list[Any], keep: Any, least: list[Any]) -> tuple:
    """Returns how many of each tensor are among the `keep` largest, with its least.

    And two scores between which the threshold of tensors lies that keep more than it.
    """

    def counts(threshold: Any) -> list[Any]:
        return [
            ops.maximum(_reaching(threshold, score), few)
            for score, few in zip(scores, least)
        ]

    low, high = _between(scores, keep, lambda threshold: sum(counts(threshold)))
    # Those between are alike: the first ones fill up what is left.
    above = counts(high)
    room = keep - sum(above)
    kept = []
    for enough, surely in zip(counts(low), above):
        more = ops.clip(enough - surely, 0, ops.maximum(room, 0))
        room = room - more
        kept.append(surely + more)
    return kept, (low, high)


def threshold_masks(
    scores: list[Any],
    threshold: Any,
    granule: int = 1,
    held: list[float] | None = None,
) -> list[Any]:
    """Returns a mask per tensor of what is not below `threshold`; one unit remains."""
    return [_rounded(s, _reaching(threshold, s), granule) for s in scores]


def _not_below(sparsity: Any, held: list[float] | None, sizes: list[int]) -> Any:
    """Returns the share of all units that goes, with what goes of each at least."""
    if not held or not any(held):
        return sparsity
    gone = sum(share * size for share, size in zip(held, sizes))
    return ops.maximum(sparsity, gone / sum(sizes))


def _count(mask: Any) -> Any:
    return count(lambda kept: kept, mask)


def _reaching(threshold: Any, score: Any) -> Any:
    return count(lambda part: part >= threshold, score)


def _rounded(score: Any, keep: Any, granule: int, near: Any = None) -> Any:
    size = math.prod(score.shape)
    groups = (ops.maximum(keep, 1) + granule - 1) // granule
    (mask,) = top_masks([score], ops.minimum(groups * granule, size), near)
    return mask
