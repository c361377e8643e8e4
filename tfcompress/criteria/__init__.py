"""Criteria: what ranks weights. One class per file; a higher score is kept."""

from tfcompress.criteria.base import (
    CRITERIA,
    NEEDS,
    Criterion,
    GradientCriterion,
    criteria_with,
)
from tfcompress.criteria.batch_norm_scale import BatchNormScale
from tfcompress.criteria.grasp import Grasp
from tfcompress.criteria.lamp import Lamp
from tfcompress.criteria.magnitude import Magnitude
from tfcompress.criteria.movement import Movement
from tfcompress.criteria.random import Random
from tfcompress.criteria.snip import Snip
from tfcompress.criteria.taylor import Taylor

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
