"""The stage `distil`: the original teaches."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import keras

from tfcompress.compression.run import Run
from tfcompress.compression.stages.base import STAGES, Stage, argument
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.losses import BoundedRegression, SoftLabels


@STAGES.register("distil")
@dataclasses.dataclass(frozen=True)
class Distil(Stage):
    """Lets the original teach in all fits to come.

    Args:
        temperature: how soft the teacher's labels are, of classifiers.
        student_loss_weight: share of the loss on the data's own labels.
    """

    name: ClassVar[str] = "distil"
    needs_fit: ClassVar[bool] = True

    temperature: float = argument({"type": "number", "exclusiveMinimum": 0}, 3.0)
    student_loss_weight: float = argument(
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1}, 0.5
    )

    def apply(self, run: Run) -> None:
        """Makes the fits to come those of a `Distiller`."""
        run.teaching = {
            "distillation_losses": self._loss(run.task.teaches),
            "student_loss_weight": self.student_loss_weight,
        }

    def _loss(self, outputs: str) -> Any:
        if outputs == "logits":
            return SoftLabels(self.temperature)
        if outputs == "probabilities":
            return SoftLabels(self.temperature, from_probabilities=True)
        if outputs == "regression":
            return BoundedRegression()
        if outputs == "binary":
            return keras.distillation.FeatureDistillation("mse")
        raise InvalidArgumentError(
            "Stage 'distil' has no loss for the outputs of this model.",
            received="several outputs, or a loss that is neither cross-entropy of "
            "classes nor regression",
            expected="one output, compiled with such a loss",
            fix="leave the stage out, or use tfcompress.Distiller yourself",
        )
