"""Schedules of a sparsity: constant, polynomial, cosine, one-cycle."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from keras import ops

from tfcompress.core.arguments import number
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.schedules.base import (
    SCHEDULES,
    FitSpan,
    Schedule,
    Step,
    checked_sparsity,
)


@SCHEDULES.register("constant")
class ConstantSparsity(Schedule):
    """The same sparsity from `begin_step` on.

    When to use: to fine-tune a model that is to be pruned in one go, or one that is
    sparse already.

    Args:
        target_sparsity: fraction of zeros, in [0, 1).
        begin_step: first update; int = step of the optimizer, float = fraction of
            the fit.
        end_step: last update; `None` = updates go on to the end of the fit.
        frequency: steps between updates of the mask; `None` makes some fifty of them.

    Example:

    >>> schedule = ConstantSparsity(0.5, begin_step=10, frequency=5)
    >>> schedule(10), schedule.is_due(9), schedule.is_due(10), schedule.is_due(15)
    (0.5, False, True, True)
    """

    grows = False

    def __init__(
        self,
        target_sparsity: float,
        begin_step: Step = 0.0,
        end_step: Step | None = None,
        frequency: int | None = None,
    ):
        super().__init__(begin_step, end_step, frequency)
        self.target_sparsity = checked_sparsity("target_sparsity", target_sparsity)

    def value(self, progress: Any) -> Any:
        return ops.zeros_like(progress) + self.target_sparsity


class GrowingSparsity(Schedule):
    """Base class of schedules from one sparsity to another; override `value`.

    Args:
        initial_sparsity: sparsity at `begin_step`, in [0, 1).
        final_sparsity: sparsity from `end_step` on, in [0, 1).
        begin_step, end_step, frequency: see `Schedule`.
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: Step = 0.0,
        end_step: Step | None = None,
        frequency: int | None = None,
    ):
        super().__init__(begin_step, end_step, frequency)
        self.initial_sparsity = checked_sparsity("initial_sparsity", initial_sparsity)
        self.final_sparsity = checked_sparsity("final_sparsity", final_sparsity)

    def between(self, share: Any) -> Any:
        """Returns the sparsity at a `share` of the way from initial to final."""
        change = self.final_sparsity - self.initial_sparsity
        return self.initial_sparsity + change * share


@SCHEDULES.register("polynomial")
class PolynomialSparsity(GrowingSparsity):
    """Sparsity that increases fast at first and ever more slowly towards the end.

    When to use: the default. Most weights are pruned while the network can still adapt,
    and the rest of the fit fine-tunes the remaining ones.

    Source: Zhu & Gupta, "To prune, or not to prune", 2017. With `t` the progress
    from `begin_step` (0) to `end_step` (1),
    `s(t) = final + (initial - final) * (1 - t) ** power`.

    Args:
        initial_sparsity: sparsity at `begin_step`, in [0, 1).
        final_sparsity: sparsity from `end_step` on, in [0, 1).
        begin_step: first update; int = step of the optimizer, float = fraction of
            the fit.
        end_step: last update; `None` = three quarters of the fit.
        power: exponent, > 0; 1 is linear, 3 the paper's cubic.
        frequency: steps between updates of the mask; `None` makes some fifty of them.

    Example:

    >>> schedule = PolynomialSparsity(0.0, 0.8, begin_step=0, end_step=100)
    >>> [round(schedule(step), 2) for step in (0, 25, 50, 100, 200)]
    [0.0, 0.46, 0.7, 0.8, 0.8]
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: Step = 0.0,
        end_step: Step | None = None,
        power: float = 3,
        frequency: int | None = None,
    ):
        super().__init__(
            initial_sparsity, final_sparsity, begin_step, end_step, frequency
        )
        self.power = number(power, "`power` must be positive.", "(0, inf)")

    def value(self, progress: Any) -> Any:
        return self.between(1.0 - ops.power(1.0 - progress, self.power))


@SCHEDULES.register("cosine")
class CosineSparsity(GrowingSparsity):
    """Sparsity that grows slowly at first, fast in the middle, slowly at the end.

    When to use: for pretrained models, whose accuracy suffers from a steep start, and
    next to a cosine learning rate.

    Source: Loshchilov & Hutter, "SGDR", 2017, applied to sparsity. With `t` the
    progress from `begin_step` (0) to `end_step` (1),
    `s(t) = final + (initial - final) * (1 + cos(pi * t)) / 2`.

    Args:
        initial_sparsity: sparsity at `begin_step`, in [0, 1).
        final_sparsity: sparsity from `end_step` on, in [0, 1).
        begin_step: first update; int = step, float = fraction of the fit.
        end_step: last update; `None` = three quarters of the fit.
        frequency: steps between updates of the mask; `None` makes some fifty of them.

    Example:

    >>> schedule = CosineSparsity(0.0, 0.8, begin_step=0, end_step=100)
    >>> [round(schedule(step), 2) for step in (0, 25, 50, 100, 200)]
    [0.0, 0.12, 0.4, 0.8, 0.8]
    """

    def value(self, progress: Any) -> Any:
        return self.between((1.0 - ops.cos(math.pi * progress)) / 2)


@SCHEDULES.register("one_cycle")
class OneCycleSparsity(GrowingSparsity):
    """Sparsity that grows along one steep S, leaving room to train before and after.

    When to use: in short fits, without tuning begin and end: the network trains
    almost dense, is pruned quickly, and then fine-tunes sparse.

    Source: Hubens et al., "One-Cycle Pruning", 2021. With `t` the progress from
    `begin_step` (0) to `end_step` (1),
    `s(t)` goes from initial to final in proportion to `1 / (1 + e**(5 - 14 * t))`,
    scaled to start at exactly 0 and end at exactly 1.

    Args:
        initial_sparsity: sparsity at `begin_step`, in [0, 1).
        final_sparsity: sparsity from `end_step` on, in [0, 1).
        begin_step: first update; int = step of the optimizer, float = fraction of
            the fit.
        end_step: last update; `None` = three quarters of the fit; the paper uses all
            of it, `1.0`.
        frequency: steps between updates of the mask; `None` makes some fifty of them.

    Example:

    >>> schedule = OneCycleSparsity(0.0, 0.8, begin_step=0, end_step=100)
    >>> [round(schedule(step), 2) for step in (0, 25, 50, 75, 100)]
    [0.0, 0.14, 0.7, 0.8, 0.8]
    """

    steepness, delay = 14.0, 5.0

    def value(self, progress: Any) -> Any:
        curve = ops.sigmoid(self.steepness * progress - self.delay)
        first = 1 / (1 + math.exp(self.delay))
        last = 1 / (1 + math.exp(self.delay - self.steepness))
        return self.between((curve - first) / (last - first))


@SCHEDULES.register("keep")
class KeepSparsity(Schedule):
    """Keeps the zeros that are there, and adds none.

    When to use: as `PruneWeights("keep")` in each fit of a model that was pruned
    before, so that fine-tuning does not undo it.

    Example:

    >>> KeepSparsity().is_due(100)
    False
    """

    grows = False

    def __init__(self) -> None:
        super().__init__()

    def value(self, progress: Any) -> Any:
        return 0.0 * progress

    def is_due(self, step: Any) -> Any:
        return False if isinstance(step, int) else ops.zeros_like(step, "bool")

    def describe(self, span: FitSpan) -> str:
        return "the zeros that are there are kept"

    @property
    def final(self) -> float | None:
        return None

    def is_over(self, step: int) -> bool:
        return True


def schedule_of(value: Any) -> Schedule:
    """Returns the schedule that an instance, a config, a name or a number means.

    Example:

    >>> schedule_of(0.5)(0)
    0.5
    """
    if isinstance(value, numbers.Real):
        return ConstantSparsity(float(value))
    if not isinstance(value, Schedule | Mapping | str):
        raise InvalidArgumentError(
            "`schedule` is not a schedule.",
            received=f"{value!r} ({type(value).__name__})",
            expected="a Schedule such as PolynomialSparsity(0.0, 0.8), or a number",
        )
    return SCHEDULES.get(value)
