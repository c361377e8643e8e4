"""The stage `fit`: fine-tuning on the training data."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfcompress.compression.run import Run
from tfcompress.compression.stages.base import COUNT, STAGES, Stage, argument


@STAGES.register("fit")
@dataclasses.dataclass(frozen=True)
class Fit(Stage):
    """Trains the model, with what the stages before it asked for.

    Args:
        epochs: passes over the training data.
        learning_rate: where a cosine decay to zero begins, as a multiple of the rate
            that the model was compiled with.
    """

    name: ClassVar[str] = "fit"
    trains: ClassVar[bool] = True

    epochs: int = argument(COUNT)
    learning_rate: float = argument({"type": "number", "exclusiveMinimum": 0}, 1.0)

    def apply(self, run: Run) -> None:
        """Trains the model in place; the one that was passed in stays as it is."""
        if run.model is run.task.model:
            run.model = run.task.copy()
        run.fit(self.epochs, self.learning_rate * run.task.learning_rate)
