"""The stage `factorize`: layers as products of smaller ones."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfcompress.compression.run import Run
from tfcompress.compression.stages.base import COUNT, SHARE, STAGES, Stage, argument
from tfcompress.low_rank.factorize import factorize


@STAGES.register("factorize")
@dataclasses.dataclass(frozen=True)
class Factorize(Stage):
    """Replaces layers by products of smaller layers.

    Args:
        macs: share of the multiply-accumulates to keep. Give one of the four.
        size: share of the weights to keep.
        energy: share of each kernel's squared norm to keep.
        rank: the rank of every layer.
        conv: how a Conv2D is cut.
        filters: regular expression on the paths of layers; None means all.
    """

    name: ClassVar[str] = "factorize"

    macs: float | None = argument(SHARE, None)
    size: float | None = argument(SHARE, None)
    energy: float | None = argument(SHARE, None)
    rank: int | None = argument(COUNT, None)
    conv: str = argument({"enum": ["tucker", "spatial"]}, "spatial")
    filters: str | None = argument({"type": "string"}, None)

    def __post_init__(self) -> None:
        self.one_of("macs", "size", "energy", "rank")

    def apply(self, run: Run) -> None:
        """Replaces the model by a smaller one."""
        run.model = factorize(run.model, **dataclasses.asdict(self))
