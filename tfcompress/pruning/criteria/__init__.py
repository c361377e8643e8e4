"""Criteria: what ranks weights. One class per file; a higher score is kept."""

from tfcompress.pruning.criteria.base import Criterion, criteria
from tfcompress.pruning.criteria.magnitude import Magnitude

__all__ = ["Criterion", "Magnitude", "criteria"]
