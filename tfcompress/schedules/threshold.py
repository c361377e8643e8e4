"""Schedules of an absolute limit for scores."""

from __future__ import annotations

from typing import Any

from tfcompress.core.arguments import number
from tfcompress.schedules.base import SCHEDULES, Schedule, Step


@SCHEDULES.register("threshold")
class MagnitudeThreshold(Schedule):
    """An absolute limit for scores instead of a sparsity.

    When to use: when what is small is known beforehand, as after training with a
    penalty (`PenalizeWeights`): everything below the limit goes, however much that
    is, and each kernel keeps at least its largest weight.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", 2015. A weight stays if `score(w) >= limit`; the limit rises linearly
    from zero at `begin_step` to `threshold` at `end_step`, and holds from there.

    Args:
        threshold: limit of the score, >= 0; with `Magnitude(p=1)` a magnitude.
        begin_step: first update; int = step of the optimizer, float = fraction of
            the fit.
        end_step: last update; `None` = three quarters of the fit.
        frequency: steps between updates of the mask; `None` makes some fifty of them.

    Example:

    >>> schedule = MagnitudeThreshold(0.1, begin_step=0, end_step=10)
    >>> [schedule(step) for step in (0, 5, 10, 20)]
    [0.0, 0.05, 0.1, 0.1]
    """

    unit = "threshold"

    def __init__(
        self,
        threshold: float,
        begin_step: Step = 0.0,
        end_step: Step | None = None,
        frequency: int | None = None,
    ):
        super().__init__(begin_step, end_step, frequency)
        self.threshold = number(
            threshold,
            "`threshold` must not be negative.",
            "[0, inf]",
            "a number >= 0, in the unit of the scores",
        )

    def value(self, progress: Any) -> Any:
        return self.threshold * progress
