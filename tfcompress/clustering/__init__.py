"""Clustering: weights that share a few values."""

from tfcompress.clustering.callback import ClusterWeights

__all__ = [
    "ClusterWeights",
]
