"""The stage `prune`: zeros that grow while the model trains."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import keras

from tfcompress.compression.run import Run, Technique
from tfcompress.compression.stages.base import (
    SHARE,
    STAGES,
    Stage,
    argument,
    criterion,
)
from tfcompress.pruning.callback import PruneWeights
from tfcompress.schedules import ConstantSparsity, PolynomialSparsity


@STAGES.register("prune")
@dataclasses.dataclass(frozen=True)
class Prune(Stage):
    """Prunes weights to zero in the next fit, and keeps them zero in those after it.

    Args:
        sparsity: share of the weights that end as zeros.
        criterion: what ranks weights.
        pattern: allowed shape of zeros.
        scope: which weights are ranked together, as for `PruneWeights`.
        end: part of the fit after which no more weights go.
        filters: regular expression on the paths of layers; None means all.
    """

    name: ClassVar[str] = "prune"
    needs_fit: ClassVar[bool] = True

    sparsity: float = argument(SHARE)
    criterion: str = criterion("weights", "gradients", "training", default="lamp")
    pattern: str = argument({"enum": ["unstructured", "n_of_m"]}, "unstructured")
    scope: str = argument({"enum": ["balanced", "layer", "global"]}, "global")
    end: float = argument(SHARE, 0.6)
    filters: str | None = argument({"type": "string"}, None)

    def apply(self, run: Run) -> None:
        """Adds `PruneWeights` to the fits to come."""
        run.first.append(
            Technique(
                lambda epochs: self._callback(
                    PolynomialSparsity(
                        0.0, self.sparsity, end_step=self.end, frequency=10
                    )
                ),
                # The smallest weights are those that are zero: they stay it.
                lambda epochs: self._callback(ConstantSparsity(self.sparsity)),
            )
        )

    def _callback(
        self, schedule: PolynomialSparsity | ConstantSparsity
    ) -> keras.callbacks.Callback:
        given = {k: v for k, v in dataclasses.asdict(self).items() if k != "end"}
        del given["sparsity"]
        return PruneWeights(schedule, **given)
