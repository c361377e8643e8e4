"""Criteria: what ranks weights. One class per file; a higher score is kept."""

from tfcompress.pruning.criteria.base import (
    CRITERIA,
    NEEDS,
    Criterion,
    GradientCriterion,
    criteria_with,
)
from tfcompress.pruning.criteria.batch_norm_scale import BatchNormScale
from tfcompress.pruning.criteria.grasp import Grasp
from tfcompress.pruning.criteria.lamp import Lamp
from tfcompress.pruning.criteria.magnitude import Magnitude
from tfcompress.pruning.criteria.movement import Movement
from tfcompress.pruning.criteria.random import Random
from tfcompress.pruning.criteria.snip import Snip
from tfcompress.pruning.criteria.taylor import Taylor

__all__ = [
    "CRITERIA",
    "NEEDS",
    "BatchNormScale",
    "Criterion",
    "GradientCriterion",
    "Grasp",
    "Lamp",
    "Magnitude",
    "Movement",
    "Random",
    "Snip",
    "Taylor",
    "criteria_with",
]
