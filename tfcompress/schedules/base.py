"""What every schedule does: resolve its steps in a fit, and say when it is due."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras import ops

from tfcompress.core.arguments import integer, number
from tfcompress.core.configured import Configured
from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.core.registry import Registry

Step = int | float

# By default. In few updates weights go before others can take over.
_UPDATES = 50


@dataclasses.dataclass(frozen=True)
class FitSpan:
    """The steps of one `fit`: `first` up to and including `last`."""

    first: int
    last: int

    @property
    def steps(self) -> int:
        return self.last - self.first + 1


class Schedule(Configured):
    """Base class of schedules.

    To write your own, override `value(progress)` and `get_config`, and register the
    class with `keras.saving.register_keras_serializable`.

    Args:
        begin_step: first step at which the schedule acts. A float is a fraction of
            the fit in [0, 1], an int a step of the optimizer.
        end_step: last step at which it acts, likewise. `None` means: hold to the
            end for schedules that are constant; finish at three quarters of the fit
            for those that grow, so that fine-tuning remains.
        frequency: steps from one update to the next. `None` makes some fifty updates:
            a fiftieth of the way from the first to the last step of the schedule, or
            of the fit where it is constant.
    """

    grows = True
    keeps_zeros = True  # whether what is zero once stays zero
    unit = "sparsity"  # or "threshold": what the value is

    def __init__(
        self,
        begin_step: Step = 0.0,
        end_step: Step | None = None,
        frequency: int | None = None,
    ):
        self.begin_step = checked_step("begin_step", begin_step)
        self.end_step = None if end_step is None else checked_step("end_step", end_step)
        problem = "`frequency` must be a positive number of steps."
        self.frequency = (
            None if frequency is None else integer(frequency, problem, low=1)
        )
        same_unit = type(self.begin_step) is type(self.end_step)
        if same_unit and self.end_step <= self.begin_step:  # type: ignore[operator]
            raise InvalidArgumentError(
                "A schedule must end after it begins.",
                received=f"begin_step={begin_step}, end_step={end_step}",
                expected="end_step > begin_step",
            )

    def value(self, progress: Any) -> Any:
        """Returns the scheduled value; `progress` runs from 0 (begin) to 1 (end)."""
        raise NotImplementedError

    def __call__(self, step: Any) -> Any:
        """Returns the value at `step`, as a float for an int and else as a tensor."""
        begin, end = self._resolved()
        span = float(max((end if end is not None else begin + 1) - begin, 1))
        progress = (ops.cast(step, "float32") - float(begin)) / span
        value = self.value(ops.clip(progress, 0.0, 1.0))
        return round(float(value), 7) if isinstance(step, int) else value

    def is_due(self, step: Any) -> Any:
        """Returns whether an update falls on `step` (a bool for an int)."""
        begin, end = self._resolved()
        position = ops.cast(step, "int32") - begin
        due = ops.logical_and(position >= 0, position % self._every() == 0)
        if end is not None:
            length = end - begin
            due = ops.logical_and(due, position <= length)
            due = ops.logical_or(due, ops.equal(position, length))
        return bool(due) if isinstance(step, int) else due

    def resolve(self, span: FitSpan) -> Schedule:
        """Returns this schedule with its fractions turned into steps of `span`.

        Raises:
            InvalidArgumentError: if the fit ends before the schedule does.
        """
        begin = _absolute(self.begin_step, span)
        end_step = self.end_step
        if end_step is None and self.grows:
            end_step = 0.75
        end = None if end_step is None else _absolute(end_step, span)
        if end is not None and end <= begin:
            raise InvalidArgumentError(
                "The fit is too short for the schedule: it would end before it begins.",
                received=f"begin at step {begin}, end at step {end} "
                f"in a fit of {span.steps} steps",
                expected="end_step > begin_step",
                fix="train for more steps or epochs, or choose other "
                "begin_step and end_step",
            )
        if begin > span.last or (self.grows and end is not None and end > span.last):
            raise InvalidArgumentError(
                f"The fit is too short: it ends at step {span.last}, before "
                f"{type(self).__name__} reaches its final value.",
                received=f"begin at step {begin}, end at step {end}, "
                f"a fit of steps {span.first} to {span.last}",
                expected=f"end_step <= {span.last}",
                fix="train for more epochs, lower end_step, or give it as a fraction "
                "of the fit such as end_step=0.75",
            )
        copy = type(self).from_config(self.get_config())
        copy.begin_step, copy.end_step = begin, end
        copy.frequency = self._every((span.last if end is None else end) - begin)
        return copy

    def update_steps(self, span: FitSpan) -> range:
        """Returns the regular update steps within `span` (the end may be one more)."""
        begin, end = self._resolved()
        last = span.last if end is None else min(end, span.last)
        return range(begin, last + 1, self._every(last - begin))

    def describe(self, span: FitSpan) -> str:
        """Returns the plan for `span` in words."""
        steps = list(self.update_steps(span))
        _, end = self._resolved()
        if end is not None and end <= span.last and steps[-1:] != [end]:
            steps.append(end)
        shown = [str(s) for s in steps]
        if len(shown) > 6:
            shown = [*shown[:3], "...", *shown[-2:]]
        return (
            f"{len(steps)} updates at steps {', '.join(shown)}; "
            f"final {self.unit} {self(steps[-1]):.4g} at step {steps[-1]}"
        )

    @property
    def final(self) -> float | None:
        """The sparsity that is reached in the end; None where nobody can tell."""
        if self.unit != "sparsity":
            return None
        begin, end = self._resolved()
        return float(self(begin if end is None else end))

    def is_over(self, step: int) -> bool:
        """Returns whether the last value was applied, after so many steps."""
        begin, end = self._resolved()
        return step > (begin if end is None else end)

    def is_behind(self, step: int) -> bool:
        """Returns whether no update comes any more from `step` on."""
        _, end = self._resolved()
        return end is not None and step > end

    def warn_if_cut_short(self, step: int, callback: str) -> bool:
        """Warns of a fit that ended before the schedule did; returns whether it did.

        Args:
            step: how many steps were made.
            callback: who followed the schedule.
        """
        begin, end = self._resolved()
        last = begin if end is None else end
        short = not self.is_over(step)
        if short:
            warn(
                f"{callback}: the fit ended after {step} steps, and the schedule at "
                f"step {last}. What is asked for in the end was not reached. Where "
                "EarlyStopping ended it, pass OnceFinal(EarlyStopping(...), "
                f"{callback}(...)) in its place."
            )
        return short

    def _every(self, steps: int | None = None) -> int:
        """Returns how many steps lie between two updates.

        Args:
            steps: from the first update to the last; None where the schedule ends by
                itself.
        """
        if self.frequency is not None:
            return self.frequency
        if steps is None:
            begin, end = self._resolved()
            steps = _UPDATES if end is None else end - begin
        return max(steps // _UPDATES, 1)

    def _resolved(self) -> tuple[int, int | None]:
        begin, end = self.begin_step, self.end_step
        if isinstance(begin, float) and begin != 0.0:
            begin = None  # type: ignore[assignment]
        if begin is None or isinstance(end, float) or (end is None and self.grows):
            raise InvalidArgumentError(
                f"{type(self).__name__} has steps given as fractions of a fit and "
                "does not know the fit yet.",
                received=f"begin_step={self.begin_step}, end_step={self.end_step}",
                fix="give whole steps, or call schedule.resolve(FitSpan(first, last))",
            )
        return int(begin), end


SCHEDULES: Registry[Schedule] = Registry("schedule", Schedule)


def checked_sparsity(name: str, value: Any) -> float:
    """Returns `value` as a float, or raises if it is no sparsity."""
    return number(
        value,
        f"`{name}` must be a fraction of zeros.",
        "[0, 1)",
        fix="write 80 % as 0.8; a layer with sparsity 1 would output nothing",
    )


def checked_step(name: str, value: Any) -> Step:
    """Returns `value`, or raises if it is neither a step nor a fraction of a fit."""
    if isinstance(value, float):
        return number(
            value,
            f"`{name}` must be in [0, 1], as a float and so a fraction of the fit.",
            "[0, 1]",
            fix=f"write {value:.0f} without a decimal point to mean a step"
            if 1 < value < float("inf")
            else None,
        )
    return integer(
        value,
        f"`{name}` must be a step (int >= 0) or a fraction of the fit (float).",
        low=0,
        expected="an int >= 0 or a float in [0, 1]",
    )


def _absolute(step: Step, span: FitSpan) -> int:
    if isinstance(step, float):
        return span.first + round(step * (span.steps - 1))
    return step
