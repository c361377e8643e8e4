"""Pruning: zeros in weights, made while a model trains or after it."""

from tfcompress.pruning.callback import PruneWeights
from tfcompress.pruning.criteria import (
    BatchNormScale,
    Criterion,
    Grasp,
    Lamp,
    Magnitude,
    Movement,
    Random,
    Snip,
    Taylor,
)
from tfcompress.pruning.patterns import Block, Channel, NOfM, Pattern, Unstructured
from tfcompress.pruning.penalty import PenalizeWeights
from tfcompress.pruning.reconstruction import reconstruct
from tfcompress.pruning.sparse_training import SparseTraining

__all__ = [
    "BatchNormScale",
    "Block",
    "Channel",
    "Criterion",
    "Grasp",
    "Lamp",
    "Magnitude",
    "Movement",
    "NOfM",
    "Pattern",
    "PenalizeWeights",
    "PruneWeights",
    "Random",
    "Snip",
    "SparseTraining",
    "Taylor",
    "Unstructured",
    "reconstruct",
]
