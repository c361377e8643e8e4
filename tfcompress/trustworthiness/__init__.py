"""Can the compressed model be trusted as the original is? Figures and limits."""

from tfcompress.trustworthiness.changes import (
    AttackResult,
    Change,
    ChangedAnswer,
    ClassChange,
    CorruptionResult,
    ReliabilityBin,
    SaliencyResult,
)
from tfcompress.trustworthiness.result import TrustReport
from tfcompress.trustworthiness.settings import TrustThresholds
from tfcompress.trustworthiness.trust import trust

__all__ = [
    "AttackResult",
    "Change",
    "ChangedAnswer",
    "ClassChange",
    "CorruptionResult",
    "ReliabilityBin",
    "SaliencyResult",
    "TrustReport",
    "TrustThresholds",
    "trust",
]
