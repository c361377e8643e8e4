"""The contract of schedules."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.schedules import FitSpan
from tfcompress.testing.tools import compiled, dtype_of, require, round_trip

_FIT = FitSpan(0, 199)


def check_schedule(schedule: Any) -> None:
    """Checks that `schedule` is a pure function of the step that fits in a graph.

    When to use: in the tests of a `Schedule` of your own.

    Args:
        schedule: an instance, its steps given in any way that fits in a fit of 200
            steps.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    >>> from tfcompress import ConstantSparsity
    >>> check_schedule(ConstantSparsity(0.5, begin_step=10))
    """
    name = type(schedule).__name__
    copy = round_trip(schedule)
    config = schedule.get_config()
    resolved = schedule.resolve(_FIT)
    require(
        schedule.get_config() == config and resolved is not schedule,
        f"{name}.resolve() must return a new schedule and leave this one alone",
    )
    steps = range(_FIT.first, _FIT.last + 1)
    values = [resolved(step) for step in steps]
    for step, value in zip(steps, values):
        require(
            isinstance(value, float) and 0 <= value < 1,
            f"{name}({step}) must be a float in [0, 1), got {value!r}",
        )
    require(
        values == [resolved(step) for step in steps],
        f"{name} must be a pure function of the step, but a second call differs",
    )
    for progress in (0.0, 0.37, 1.0):
        here, there = (float(one.value(progress)) for one in (schedule, copy))
        require(
            here == there,
            f"{name} rebuilt from its config gives {there} at progress {progress} "
            f"instead of {here}; get_config must return every argument of __init__",
        )
    due = [resolved.is_due(step) for step in steps]
    require(
        all(isinstance(flag, bool) for flag in due),
        f"{name}.is_due(int) must be a bool",
    )
    require(any(due), f"{name} is never due in a fit of {_FIT.steps} steps")
    planned = set(resolved.update_steps(_FIT))
    late = sorted(step for step in planned if not due[step])
    require(not late, f"{name}.update_steps() has steps that are not due: {late[:5]}")
    if schedule.grows:
        require(
            values[-1] >= values[0] and values[-1] == max(values),
            f"{name}.grows is True, but its last value {values[-1]} is not its largest",
        )
    _check_schedule_in_a_graph(resolved, values, due)


def _check_schedule_in_a_graph(schedule: Any, values: list, due: list) -> None:
    name = type(schedule).__name__
    in_graph = compiled(lambda step: (schedule(step), schedule.is_due(step)))
    for step in range(0, len(values), 7):
        value, flag = in_graph(np.int32(step))
        require(
            tuple(value.shape) == () and "float" in dtype_of(value),
            f"{name}(tensor) must be a float scalar, got {value.dtype} {value.shape}",
        )
        require(
            abs(float(value) - values[step]) < 1e-6,
            f"{name} compiled gives {float(value)} at step {step}, eager "
            f"{values[step]}",
        )
        require(
            dtype_of(flag) == "bool" and bool(flag) == due[step],
            f"{name}.is_due compiled gives {flag} at step {step}, eager {due[step]}",
        )
