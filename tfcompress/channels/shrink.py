"""shrink: an ordinary model with fewer channels."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.channels.constants import ExactRemoval
from tfcompress.channels.dependencies import ChannelGroup, Dependencies, analyse
from tfcompress.channels.gradients import gradient_importance
from tfcompress.channels.scores import AnyCriterion, channel_criterion, channel_scores
from tfcompress.channels.surgery import remove
from tfcompress.channels.targets import (
    Limits,
    eligible,
    limits_of,
    lowest,
    warn_of_unknown,
)
from tfcompress.channels.widths import TOLERANCE, Counts, MacCost, Widths, meet
from tfcompress.core.arguments import integer, number
from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.core.kernel_values import two_of_four, warn_of_loss
from tfcompress.core.select import (
    Filters,
    refuse_quantized,
    walk,
    warn_of_own_training,
)
from tfcompress.layers import kernels_of, macs_of_nodes
from tfcompress.layers import macs as count_macs

# How often a target is aimed at, and how many fixed layers an error names.
_ATTEMPTS = 5
_SHOWN = 4


def shrink(
    model: keras.Model,
    sparsity: float | None = None,
    macs: float | None = None,
    criterion: AnyCriterion = "magnitude",
    data: Any = None,
    round_to: int = 8,
    filters: Filters = None,
    max_layer_sparsity: Limits = None,
) -> keras.Model:
    """Returns a smaller model, from which whole channels are removed.

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
        sparsity: share of the removable channels to remove, in [0, 1).
        macs: share of the multiply-accumulates to keep, in (0, 1]. Give one of the
            two, or neither to remove the channels that are zero already.
        criterion: what ranks channels: `"magnitude"`, `"lamp"`, `"batch_norm"` (size of
            the scale; Liu et al., "Network Slimming", 2017; also `"batch_norm_scale"`),
            `"taylor"` (needs `data`; Molchanov et al., 2019), `"random"`, the name of a
            registered criterion that needs no more, or an object with `score(weights)`.
        data: for criteria that need gradients: `(inputs, targets)` or a data set of
            such batches. The model must be compiled, for its loss.
        round_to: the remaining widths are multiples of this, which fast kernels prefer;
            a group may also keep its full width. Where the target cannot be met that
            way, they are multiples of the largest divisor with which it can, and a
            `CompressionWarning` says so. Attention heads and units of recurrent layers
            are not rounded. Without a target every zero channel is removed, whatever
            the width.
        filters: which layers may lose channels: a regular expression on the layer's
            path, a layer class, a predicate, or a list of these. Layers that are
            tied to them follow.
        max_layer_sparsity: the largest share of channels that one layer may lose: a
            number for all, or `{regular expression: number}`; 0.0 leaves a layer as it
            is.

    Returns:
        A new, uncompiled model with the remaining weights. Layers keep their names.
        Layers made of layers are taken apart, so their layers become the model's own.
        Channels of the model's inputs and outputs stay, and so do those that reach a
        layer without a channel rule, which a `CompressionWarning` names.

    Raises:
        InvalidArgumentError: if the target cannot be met with any width (the nearest
            that can is named, and the layers that hold the work), no channel can go, an
            argument is out of its range, or a weight is NaN.
        UnsupportedLayerError: if `macs` is given and a layer cannot be counted.

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
    warn_of_own_training(model, "smaller")
    _check_weights(model)
    if filters is None:
        warn_of_unknown(dependencies)
    groups = eligible(model, dependencies, filters)
    limits = limits_of(groups, max_layer_sparsity, dependencies.groups)
    if sparsity is None and macs is None:
        return _remove_constant(dependencies, groups, limits)
    ranked = channel_criterion(criterion, "gradients")
    by_data = ranked.needs == "gradients"
    score = gradient_importance(model, data, ranked) if by_data else None
    scores = channel_scores(dependencies, groups, ranked, score)
    plan = _Plan(model, dependencies, groups, limits, scores)
    if macs is None:
        smaller = plan.with_sparsity(float(sparsity or 0.0), round_to)
    else:
        smaller = plan.with_macs(macs, round_to)
    _warn_of_patterns(model, smaller)
    return smaller


def _warn_of_patterns(model: keras.Model, smaller: keras.Model) -> None:
    """Names layers in which two of four weights were zero, and are so no longer."""
    broken = _in_pattern(model) - _in_pattern(smaller)
    if broken:
        warn_of_loss(
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


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What may go, and which channels go first."""

    model: keras.Model
    dependencies: Dependencies
    groups: list[ChannelGroup]
    limits: list[float]
    scores: list[np.ndarray]
    work: dict[bytes, int] = dataclasses.field(default_factory=dict)

    def with_sparsity(self, sparsity: float, round_to: int) -> keras.Model:
        total = sum(group.channels for group in self.groups)
        if not total:
            raise InvalidArgumentError(
                "The model has no channels that can be removed.",
                received=f"sparsity={sparsity}" + self._fixed(),
                fix="print channel_groups(model) to see what keeps each of them",
            )
        # Of seven channels, no half can go; the nearest is as good as it gets.
        most = max(TOLERANCE, 0.5 / total + 1e-9)
        for step in _steps(round_to):
            widths = self._widths(step)
            counts = meet(widths, lambda c: float(c.sum()), total * (1 - sparsity))
            reached = 1 - float(counts.sum()) / total
            if abs(reached - sparsity) <= most:
                break
        else:
            raise InvalidArgumentError(
                f"sparsity={sparsity} cannot be met.",
                received=f"{total} channels in {len(self.groups)} groups",
                expected=f"sparsity={reached:.3g}, the nearest that works",
                fix="take that sparsity, or a larger max_layer_sparsity",
            )
        if step != round_to:
            _say_nearest(
                f"sparsity={sparsity}", f"sparsity={reached:.3g}", round_to, step
            )
        return self._smaller(counts)

    def _holders(self, counts: list[int]) -> str:
        """Returns the names of the layers that hold most of the work."""
        nodes = self.dependencies.graph.nodes
        order = sorted(range(len(nodes)), key=lambda position: -counts[position])
        return ", ".join(f"'{nodes[i].name}'" for i in order[:3] if counts[i])

    def with_macs(self, share: float, round_to: int) -> keras.Model:
        counts = macs_of_nodes(self.dependencies.graph)
        full = sum(counts)
        if not full:
            raise InvalidArgumentError(
                f"macs={share} cannot be met.",
                received=f"model '{self.model.name}', which multiplies nothing",
                fix="take sparsity= instead",
            )
        for step in _steps(round_to):
            widths, reached = self._nearest(share, full, step)
            if abs(reached - share) <= TOLERANCE * share:
                break
        else:
            raise InvalidArgumentError(
                f"macs={share} cannot be met.",
                received=f"a model of {full} multiply-accumulates, most of them in "
                + self._holders(counts)
                + self._fixed(),
                expected=f"macs={reached:.3g}, the nearest that works",
                fix="take that share, or a larger max_layer_sparsity; "
                "channel_groups(model) shows which channels are fixed",
            )
        if step != round_to:
            _say_nearest(f"macs={share}", f"macs={reached:.3g}", round_to, step)
        return self._smaller(widths)

    def _nearest(self, share: float, full: int, step: int) -> tuple[Counts, float]:
        """Returns the widths nearest to a share of the MACs, and what they reach."""
        widths = self._widths(step)
        cost = MacCost(self.dependencies, self.groups)
        aim, tried = share, []
        for _ in range(_ATTEMPTS):
            counts = meet(widths, cost, aim * full)
            reached = self._macs(counts) / full
            tried.append((abs(reached - share), counts, reached))
            if abs(reached - share) <= TOLERANCE / 4 * share:
                break
            # The estimate is off where cost is not in kernels, as in attention.
            aim *= share / reached
        _, nearest, reached = min(tried, key=_first)
        return nearest, reached

    def _widths(self, step: int) -> list[Widths]:
        return [Widths(g, step, limit) for g, limit in zip(self.groups, self.limits)]

    def _macs(self, counts: Counts) -> int:
        """Returns the MACs of the model of these widths; it is made but once.

        Small models have few widths, which many aims and steps come back to.
        """
        key = np.asarray(counts, "int64").tobytes()
        if key not in self.work:
            self.work[key] = count_macs(self._smaller(counts))
        return self.work[key]

    def _smaller(self, counts: Counts) -> keras.Model:
        return remove(self.dependencies, lowest(self.groups, self.scores, counts))

    def _fixed(self) -> str:
        """Returns which layers keep the most work from going, and why."""
        nodes = self.dependencies.graph.nodes
        work = dict(zip(map(id, nodes), macs_of_nodes(self.dependencies.graph)))
        held = collections.Counter[str]()
        for node in nodes:
            held[node.operation.name] += work[id(node)]
        fixed = [
            (held[group.name.split("#")[0].split("/")[-1]], str(group))
            for group in self.dependencies.groups
            if group.fixed
        ]
        largest = sorted(fixed, key=_first, reverse=True)[:_SHOWN]
        return "".join(f"; {text} ({count} MACs)" for count, text in largest)


def _first(pair: tuple) -> float:
    return pair[0]


def _steps(round_to: int) -> list[int]:
    """Returns what widths may be multiples of, from the one that is asked for down."""
    small = [n for n in range(1, math.isqrt(round_to) + 1) if round_to % n == 0]
    return sorted({*small, *(round_to // n for n in small)}, reverse=True)


def _say_nearest(target: str, reached: str, round_to: int, step: int) -> None:
    warn(
        f"{target} cannot be met with round_to={round_to}: the widths that remain are "
        f"multiples of {step} ({reached})."
    )


def _check_arguments(sparsity: float | None, macs: float | None, round_to: int) -> None:
    if sparsity is not None and macs is not None:
        raise InvalidArgumentError(
            "Received two targets.",
            received=f"sparsity={sparsity} and macs={macs}",
            expected="one of them",
        )
    if sparsity is not None:
        number(sparsity, "`sparsity` is the share of channels to remove.", "[0, 1)")
    if macs is not None:
        problem = "`macs` is the share of multiply-accumulates to keep."
        number(macs, problem, "(0, 1]")
    problem = "`round_to` is the number that widths are multiples of."
    integer(round_to, problem, low=1, expected="a positive integer")


def _check_weights(model: keras.Model) -> None:
    for variable in model.weights:
        value = ops.convert_to_numpy(variable)
        if np.issubdtype(value.dtype, np.floating) and np.isnan(value).any():
            raise InvalidArgumentError(
                f"Cannot shrink the model: weight '{variable.path}' is not a number.",
                received=f"{int(np.isnan(value).sum())} NaN of {value.size} values",
                fix="go back to a checkpoint from before the training diverged",
            )
