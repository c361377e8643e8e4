"""The stage `cluster`: weights that share a few values."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import keras

from tfcompress.clustering.callback import ClusterWeights
from tfcompress.clustering.starts import STARTS
from tfcompress.compression.run import Run, Technique
from tfcompress.compression.stages.base import STAGES, Stage, argument
from tfcompress.layers import kernels_of


@STAGES.register("cluster")
@dataclasses.dataclass(frozen=True)
class Cluster(Stage):
    """Ties the weights of each kernel to a few shared values, from the next fit on.

    Args:
        num_clusters: values of a kernel, zero included.
        initialization: where k-means starts.
        filters: regular expression on the paths of layers; None means all whose kernels
            have more weights than that.
    """

    name: ClassVar[str] = "cluster"
    needs_fit: ClassVar[bool] = True

    num_clusters: int = argument({"type": "integer", "minimum": 2}, 16)
    initialization: str = argument({"enum": sorted(STARTS)}, "kmeans++")
    filters: str | None = argument({"type": "string"}, None)

    def apply(self, run: Run) -> None:
        """Adds `ClusterWeights` to the fits to come."""

        def callback(epochs: int) -> ClusterWeights:
            given = dataclasses.asdict(self)
            return ClusterWeights(**{**given, "filters": self.filters or self._gains})

        # Members and values are found again in the weights.
        run.first.append(Technique(callback, callback))

    def _gains(self, layer: keras.Layer) -> bool:
        sizes = [math.prod(variable.shape) for _, variable in kernels_of(layer)]
        return bool(sizes) and min(sizes) > self.num_clusters
