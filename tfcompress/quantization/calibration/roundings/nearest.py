"""Plain rounding."""

from __future__ import annotations

from tfcompress.quantization.calibration.rounding import (
    round_kernels,
    rounded_in_order,
)
from tfcompress.quantization.calibration.roundings.base import ROUNDINGS, Rounding
from tfcompress.quantization.calibration.task import Calibration


@ROUNDINGS.register("nearest")
class Nearest(Rounding):
    """Rounds each weight to the nearest value.

    When to use: where zeros and shared values are to stay what they are.

    Source: the step of a channel is the one with the least squared error of its
    weights, each counted by the mean square of its inputs.
    """

    learns = False

    def units(self, task: Calibration) -> int:
        return len(rounded_in_order(task.model, task.means))

    def apply(self, task: Calibration) -> None:
        model, graph, data = task.model, task.graph, task.data
        round_kernels(model, graph, data, task.means, False, task.progress)
