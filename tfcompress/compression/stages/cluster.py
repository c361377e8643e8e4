"""The stage `cluster`: weights that share a few values."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfcompress.clustering.callback import ClusterWeights
from tfcompress.clustering.starts import STARTS
from tfcompress.compression.run import Run, Technique
from tfcompress.compression.stages.base import STAGES, Stage, argument


@STAGES.register("cluster")
@dataclasses.dataclass(frozen=True)
class Cluster(Stage):
    """Ties the weights of each kernel to a few shared values, from the next fit on.

    Args:
        num_clusters: values of a kernel, zero included.
        initialization: where k-means starts.
        filters: regular expression on the paths of layers; None means all.
    """

    name: ClassVar[str] = "cluster"
    needs_fit: ClassVar[bool] = True

    num_clusters: int = argument({"type": "integer", "minimum": 2}, 16)
    initialization: str = argument({"enum": sorted(STARTS)}, "kmeans++")
    filters: str | None = argument({"type": "string"}, None)

    def apply(self, run: Run) -> None:
        """Adds `ClusterWeights` to the fits to come."""

        def callback(epochs: int) -> ClusterWeights:
            return ClusterWeights(**dataclasses.asdict(self))

        # Members and values are found again in the weights.
        run.first.append(Technique(callback, callback))
