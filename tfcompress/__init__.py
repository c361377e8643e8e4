"""tfcompress: make a Keras model smaller and faster during fit, and ship it."""

from tfcompress.core.errors import (
    ArtifactError,
    CompressionError,
    CompressionWarning,
    ExportError,
    InvalidArgumentError,
    UnsupportedLayerError,
    VerificationError,
)
from tfcompress.layer_rules import Kernel, LayerRule, macs, register_layer_rule
from tfcompress.pruning.callback import PruneWeights
from tfcompress.pruning.criteria import Criterion, Magnitude
from tfcompress.pruning.patterns import Pattern, Unstructured
from tfcompress.schedules import ConstantSparsity, PolynomialSparsity, Schedule

__all__ = [
    "ArtifactError",
    "CompressionError",
    "CompressionWarning",
    "ConstantSparsity",
    "Criterion",
    "ExportError",
    "InvalidArgumentError",
    "Kernel",
    "LayerRule",
    "Magnitude",
    "Pattern",
    "PolynomialSparsity",
    "PruneWeights",
    "Schedule",
    "Unstructured",
    "UnsupportedLayerError",
    "VerificationError",
    "macs",
    "register_layer_rule",
]
