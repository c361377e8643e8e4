"""The stage `shrink`: fewer channels."""

from __future__ import annotations

import dataclasses
import warnings
from typing import ClassVar

import keras

from tfcompress.channels.shrink import shrink
from tfcompress.compression.run import Run
from tfcompress.compression.stages.base import (
    COUNT,
    SHARE,
    STAGES,
    Stage,
    argument,
    criterion,
)


@STAGES.register("shrink")
@dataclasses.dataclass(frozen=True)
class Shrink(Stage):
    """Removes whole channels, with all that reads them.

    Args:
        macs: share of the multiply-accumulates to keep. Give this or `sparsity`.
        sparsity: share of the channels to remove.
        criterion: what ranks channels.
        round_to: widths are multiples of this; of a half of it, a quarter and so on,
            where the target cannot be met otherwise.
        max_layer_sparsity: the most that one layer may lose.
    """

    name: ClassVar[str] = "shrink"

    macs: float | None = argument(SHARE, None)
    sparsity: float | None = argument(SHARE, None)
    criterion: str = criterion("weights", "batch_norm")
    round_to: int = argument(COUNT, 8)
    max_layer_sparsity: float | None = argument(SHARE, None)

    def __post_init__(self) -> None:
        self.one_of("macs", "sparsity")

    def apply(self, run: Run) -> None:
        """Replaces the model by a smaller one."""
        run.model = self.smaller(run.model)

    def smaller(self, model: keras.Model) -> keras.Model:
        """Returns the smaller model.

        Raises:
            InvalidArgumentError: if the target cannot be met with widths of any kind.
        """
        with warnings.catch_warnings():
            # A recipe is for models of all sizes; small ones have few round widths.
            warnings.filterwarnings("ignore", ".*cannot be met with round_to")
            return shrink(
                model,
                sparsity=self.sparsity,
                macs=self.macs,
                criterion=self.criterion,
                round_to=self.round_to,
                max_layer_sparsity=self.max_layer_sparsity,
            )
