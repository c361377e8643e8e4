"""Schedules: a pure function from a training step to a value, and when to apply it.

A schedule counts in steps of the optimizer (`optimizer.iterations`), so a run that
is killed and resumed goes on where it was without any file beside the checkpoint.
Steps may be given as whole numbers or as fractions of the fit at hand.
"""

from tfcompress.schedules.alternating import AlternatingSparsity
from tfcompress.schedules.base import (
    SCHEDULES,
    FitSpan,
    Schedule,
    Step,
    checked_sparsity,
    checked_step,
)
from tfcompress.schedules.sparsity import (
    ConstantSparsity,
    CosineSparsity,
    GrowingSparsity,
    KeepSparsity,
    OneCycleSparsity,
    PolynomialSparsity,
    schedule_of,
)
from tfcompress.schedules.threshold import MagnitudeThreshold

__all__ = [
    "SCHEDULES",
    "AlternatingSparsity",
    "ConstantSparsity",
    "CosineSparsity",
    "FitSpan",
    "GrowingSparsity",
    "KeepSparsity",
    "MagnitudeThreshold",
    "OneCycleSparsity",
    "PolynomialSparsity",
    "Schedule",
    "Step",
    "checked_sparsity",
    "checked_step",
    "schedule_of",
]
