"""A schedule that takes zeros back: sparse and dense phases in turns."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.core.arguments import integer
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.schedules.base import (
    SCHEDULES,
    FitSpan,
    Schedule,
    Step,
    checked_sparsity,
)


@SCHEDULES.register("alternating")
class AlternatingSparsity(Schedule):
    """Sparse and dense phases in turns: what was pruned may come back.

    When to use: in long fits from scratch, and at high sparsities, where a weight that
    is pruned early is often one that would have been needed.

    Source: Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training of Deep
    Neural Networks", 2021. From `begin_step` to `end_step` there are
    `2 * phases - 1` phases of equal length. In the first, the third and so on the share
    `target_sparsity` of the weights is zero, chosen once when the phase begins. In the
    phases between, all weights train, beginning at zero where they were pruned. The
    last phase is sparse, and the fit goes on with its zeros. Before `begin_step` (the
    paper's warm-up) the model trains dense.

    Args:
        target_sparsity: fraction of zeros in the sparse phases, in [0, 1).
        phases: how many sparse phases there are, >= 2.
        begin_step: beginning of the first sparse phase; int = step of the optimizer,
            float = fraction of the fit.
        end_step: end of the last sparse phase, from which on the zeros only stay;
            `None` = three quarters of the fit.

    Raises:
        InvalidArgumentError: in `resolve`, if a phase would have fewer steps than there
            are phases.

    Example:

    >>> schedule = AlternatingSparsity(0.9, phases=3, begin_step=0, end_step=100)
    >>> [schedule(step) for step in (0, 19, 20, 39, 40, 60, 80, 100)]
    [0.9, 0.9, 0.0, 0.0, 0.9, 0.0, 0.9, 0.9]
    """

    keeps_zeros = False

    def __init__(
        self,
        target_sparsity: float,
        phases: int = 4,
        begin_step: Step = 0.1,
        end_step: Step | None = None,
    ):
        problem = "`phases` is a number of sparse phases."
        self.phases = integer(phases, problem, 2, expected="an int >= 2")
        super().__init__(begin_step, end_step)
        self.target_sparsity = checked_sparsity("target_sparsity", target_sparsity)

    @property
    def _all_phases(self) -> int:
        return 2 * self.phases - 1

    def value(self, progress: Any) -> Any:
        # A step that begins a phase must not lie before it for a rounded quotient.
        phase = ops.floor(progress * self._all_phases + 1e-5)
        # The end of the last phase would be the beginning of one more.
        dense = ops.minimum(phase, self._all_phases - 1.0) % 2
        return self.target_sparsity * (1.0 - dense)

    def resolve(self, span: FitSpan) -> Schedule:
        found = super().resolve(span)
        begin, end = found._resolved()
        steps = (end or begin) - begin
        if steps < self._all_phases**2:
            raise InvalidArgumentError(
                "The fit is too short for the phases of AlternatingSparsity.",
                received=f"{self._all_phases} phases in {steps} steps",
                expected=f"at least {self._all_phases**2} steps",
                fix="train for more epochs, or pass fewer phases",
            )
        return found

    def _every(self, steps: int | None = None) -> int:
        # A phase that is rounded up begins in the first step that has its value.
        if steps is None:
            begin, end = self._resolved()
            steps = (end or begin) - begin
        return -(-steps // self._all_phases)
