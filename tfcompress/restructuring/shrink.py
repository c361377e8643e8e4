"""shrink: an ordinary model with fewer channels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.kernel_values import two_of_four, warn
from tfcompress.core.select import Filters, refuse_quantized, walk
from tfcompress.layer_rules import kernels_of
from tfcompress.layer_rules import macs as count_macs
from tfcompress.restructuring.constants import ExactRemoval
from tfcompress.restructuring.dependencies import ChannelGroup, Dependencies, analyse
from tfcompress.restructuring.gradients import taylor_importance
from tfcompress.restructuring.scores import Criterion, channel_scores
from tfcompress.restructuring.surgery import remove
from tfcompress.restructuring.targets import (
    Limits,
    eligible,
    limits_of,
    lowest,
    warn_of_unknown,
)
from tfcompress.restructuring.widths import TOLERANCE, Counts, MacCost, Widths, meet


def shrink(
    model: keras.Model,
    sparsity: float | None = None,
    macs: float | None = None,
    criterion: Criterion = "magnitude",
    data: Any = None,
    round_to: int = 8,
    filters: Filters = None,
    max_layer_sparsity: Limits = None,
) -> keras.Model:
    """Returns a smaller model: whole channels are removed, with all that reads them.

    When to use: to make a model faster everywhere, with no special kernels. Give a
    target in `sparsity` or `macs` and fine-tune the result with `fit`; or prune whole
    channels while training (`PruneChannels`) and call `shrink(model)` with no target,
    which removes what is zero already and leaves the outputs as they are.

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", 2023. Channels
    that the graph ties (by a residual addition, a concatenation, a grouped
    convolution ...) are scored and removed together; `channel_groups(model)` shows
    them. Every group gets about the same sparsity.

    Args:
        model: a built Functional or Sequential model; it is not changed.
        sparsity: share of the channels to remove, in [0, 1), of all that may go.
        macs: share of the multiply-accumulates to keep, in (0, 1]. Give one of the
            two, or neither to remove the channels that are zero already.
        criterion: what ranks channels: `"magnitude"`, `"batch_norm"` (size of the
            scale; Liu et al., "Network Slimming", 2017), `"taylor"` (needs `data`;
            Molchanov et al., 2019), `"random"`, or an object with `score(weights)`.
        data: for `"taylor"`: `(inputs, targets)` or a data set of such batches. The
            model must be compiled, for its loss.
        round_to: the widths that remain are multiples of this, which is what fast
            kernels like; a group may also keep its full width. Without a target
            every zero channel goes, whatever the width.
        filters: which layers may lose channels: a regular expression on the layer's
            path, a layer class, a predicate, or a list of these. Layers that are
            tied to them follow.
        max_layer_sparsity: the most that one layer may lose: a number for all, or
            `{regular expression: number}`; 0.0 leaves a layer as it is.

    Returns:
        A new, uncompiled model with the surviving weights. Layers keep their names.
        Channels of the model's inputs and outputs stay, and so do those that meet a
        layer without a channel rule, which a `CompressionWarning` names.

    Raises:
        InvalidArgumentError: if the target cannot be met (the nearest that can is
            named), an argument is out of its range, or a weight is NaN.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(32, 3, name="conv"),
    ...     keras.layers.Flatten(), keras.layers.Dense(10, name="head")])
    >>> small = shrink(model, sparsity=0.5)
    >>> small.get_layer("conv").filters, small.get_layer("head").kernel.shape[0]
    (16, 576)
    """
    _check_arguments(sparsity, macs, round_to)
    if isinstance(model, keras.Model):
        refuse_quantized(model, "shrink")
    dependencies = analyse(model)
    _check_weights(model)
    if filters is None:
        warn_of_unknown(dependencies)
    groups = eligible(model, dependencies, filters)
    limits = limits_of(groups, max_layer_sparsity, dependencies.groups)
    if sparsity is None and macs is None:
        return _remove_constant(dependencies, groups, limits)
    gradients = taylor_importance(model, data) if criterion == "taylor" else None
    scores = channel_scores(dependencies, groups, criterion, gradients)
    widths = [Widths(g, round_to, limit) for g, limit in zip(groups, limits)]
    if macs is None:
        counts = _for_sparsity(widths, float(sparsity or 0.0), round_to)
        smaller = remove(dependencies, lowest(groups, scores, counts))
    else:
        smaller = _for_macs(model, dependencies, widths, scores, macs)
    _warn_of_patterns(model, smaller)
    return smaller


def _warn_of_patterns(model: keras.Model, smaller: keras.Model) -> None:
    """Names layers in which two of four weights were zero, and are so no longer."""
    broken = _in_pattern(model) - _in_pattern(smaller)
    if broken:
        warn(
            f"the pattern 2:4 of {', '.join(sorted(broken))}, whose input channels "
            "are other neighbours now. Shrink first, then prune to a pattern"
        )


def _in_pattern(model: keras.Model) -> set[str]:
    return {
        layer.name
        for _, layer in walk(model)
        for kernel, variable in kernels_of(layer)
        if (kernel.input_axes, kernel.output_axes) == ((-2,), (-1,))
        and len(variable.shape) > 1
        and two_of_four(_as_places(ops.convert_to_numpy(variable)))
    }


def _as_places(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *values.shape[-2:])


def _remove_constant(
    dependencies: Dependencies, groups: list[ChannelGroup], limits: list[float]
) -> keras.Model:
    exact = ExactRemoval(dependencies)
    removed: set[int] = set()
    for group, limit in zip(groups, limits):
        found = [m for m in group.members if m in exact.removable]
        # A layer cannot be without channels, even if all of them are zero.
        most = min(group.channels - 1, int(group.channels * limit + 1e-9))
        removed.update(found[len(found) - most :] if len(found) > most else found)
    return remove(dependencies, removed, exact.offsets(removed))


def _for_sparsity(widths: list[Widths], sparsity: float, round_to: int) -> Counts:
    total = sum(w.group.channels for w in widths)
    if not total:
        raise InvalidArgumentError(
            "The model has no channels that can be removed.",
            received=f"sparsity={sparsity}",
            fix="print channel_groups(model) to see what keeps each of them",
        )
    counts = meet(widths, lambda c: float(c.sum()), total * (1 - sparsity))
    reached = 1 - float(counts.sum()) / total
    # Of seven channels, no half can go; the nearest is as good as it gets.
    if abs(reached - sparsity) > max(TOLERANCE, 0.5 / total + 1e-9):
        raise InvalidArgumentError(
            f"sparsity={sparsity} cannot be met with round_to={round_to}.",
            received=f"layers of {_sizes(widths)} channels",
            expected=f"sparsity={reached:.3g}, the nearest that works",
            fix="take that sparsity, a smaller round_to or a larger max_layer_sparsity",
        )
    return counts


def _sizes(widths: list[Widths]) -> str:
    sizes = sorted({w.group.channels for w in widths})
    return ", ".join(map(str, sizes[:8])) + ", ..." * (len(sizes) > 8)


def _for_macs(
    model: keras.Model,
    dependencies: Dependencies,
    widths: list[Widths],
    scores: list[np.ndarray],
    share: float,
) -> keras.Model:
    groups = [w.group for w in widths]
    cost = MacCost(dependencies, groups)
    full = count_macs(model)
    aim = share
    for _ in range(3):
        counts = meet(widths, cost, aim * full)
        result = remove(dependencies, lowest(groups, scores, counts))
        reached = count_macs(result) / full if full else 1.0
        if abs(reached - share) <= TOLERANCE / 4 * share:
            break
        # The estimate is off where cost is not in kernels, as in attention.
        aim *= share / reached
    if abs(reached - share) > TOLERANCE * share:
        raise InvalidArgumentError(
            f"macs={share} cannot be met.",
            received=f"a model of {full} multiply-accumulates",
            expected=f"macs={reached:.3g}, the nearest that works",
            fix="take that share, a smaller round_to or a larger max_layer_sparsity; "
            "channel_groups(model) shows which channels are fixed",
        )
    return result


def _check_arguments(sparsity: float | None, macs: float | None, round_to: int) -> None:
    if sparsity is not None and macs is not None:
        raise InvalidArgumentError(
            "Received two targets.",
            received=f"sparsity={sparsity} and macs={macs}",
            expected="one of them",
        )
    if sparsity is not None and not 0 <= sparsity < 1:
        raise InvalidArgumentError(
            "`sparsity` is the share of channels to remove.",
            received=sparsity,
            expected="a number in [0, 1)",
        )
    if macs is not None and not 0 < macs <= 1:
        raise InvalidArgumentError(
            "`macs` is the share of multiply-accumulates to keep.",
            received=macs,
            expected="a number in (0, 1]",
        )
    if not isinstance(round_to, int) or round_to < 1:
        raise InvalidArgumentError(
            "`round_to` is the number that widths are multiples of.",
            received=repr(round_to),
            expected="a positive integer",
        )


def _check_weights(model: keras.Model) -> None:
    for variable in model.weights:
        value = ops.convert_to_numpy(variable)
        if np.issubdtype(value.dtype, np.floating) and np.isnan(value).any():
            raise InvalidArgumentError(
                f"Cannot shrink the model: weight '{variable.path}' is not a number.",
                received=f"{int(np.isnan(value).sum())} NaN of {value.size} values",
                fix="go back to a checkpoint from before the training diverged",
            )
