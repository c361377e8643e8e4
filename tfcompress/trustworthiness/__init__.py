"""Can the compressed model be trusted as the original is? Figures and limits."""

from tfcompress.trustworthiness.result import (
    AttackResult,
    Change,
    ChangedAnswer,
    ClassChange,
    CorruptionResult,
    ReliabilityBin,
    SaliencyResult,
    TrustReport,
)
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
