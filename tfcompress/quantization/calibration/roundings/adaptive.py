"""GPTQ: weights are rounded one input after the other; the rest makes up for it."""

from __future__ import annotations

from tfcompress.quantization.calibration.rounding import (
    round_kernels,
    rounded_in_order,
)
from tfcompress.quantization.calibration.roundings.base import ROUNDINGS, Rounding
from tfcompress.quantization.calibration.task import Calibration


@ROUNDINGS.register("adaptive", "gptq")
class Adaptive(Rounding):
    """Rounds weights one input after the other; later ones make up for the errors.

    When to use: the default. It takes no longer than the calibration itself.

    Source: Frantar et al., "GPTQ", 2023: with `H = x'x` of the inputs of a layer,
    weight `i` of all outputs is rounded, and the later ones move by
    `-error / U[i, i] * U[i, i+1:]`, where `U` is the upper Cholesky factor of
    `inv(H)`.
    """

    learns = False

    def units(self, task: Calibration) -> int:
        return len(rounded_in_order(task.model, task.means))

    def apply(self, task: Calibration) -> None:
        model, graph, data = task.model, task.graph, task.data
        round_kernels(model, graph, data, task.means, True, task.progress)
