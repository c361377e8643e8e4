"""tfcompress: make a Keras model smaller and faster during fit, and ship it."""

from tfcompress.benchmarking import Benchmark, benchmark
from tfcompress.core.errors import (
    ArtifactError,
    CompressionError,
    CompressionWarning,
    ExportError,
    InvalidArgumentError,
    UnsupportedLayerError,
    VerificationError,
)
from tfcompress.distillation.distiller import Distiller
from tfcompress.exporters import Artifact, Runner, export, load
from tfcompress.finalization import finalize
from tfcompress.layer_rules import Kernel, LayerRule, macs, register_layer_rule
from tfcompress.pruning.callback import PruneWeights
from tfcompress.pruning.criteria import Criterion, Magnitude
from tfcompress.pruning.patterns import Pattern, Unstructured
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.freeze import FreezeQuantization
from tfcompress.quantization.quantize import quantize_aware
from tfcompress.quantization.quantizers import Quantizer, UniformQuantizer
from tfcompress.quantization.scheme import QuantizationScheme
from tfcompress.quantization.wrapper import QuantizedLayer
from tfcompress.reporting import Report, report
from tfcompress.schedules import ConstantSparsity, PolynomialSparsity, Schedule
from tfcompress.verification import Verification, verify

__all__ = [
    "Artifact",
    "ArtifactError",
    "Benchmark",
    "CompressionError",
    "CompressionWarning",
    "ConstantSparsity",
    "Criterion",
    "Distiller",
    "ExportError",
    "FakeQuantize",
    "FreezeQuantization",
    "InvalidArgumentError",
    "Kernel",
    "LayerRule",
    "Magnitude",
    "Pattern",
    "PolynomialSparsity",
    "PruneWeights",
    "QuantizationScheme",
    "QuantizedLayer",
    "Quantizer",
    "Report",
    "Runner",
    "Schedule",
    "UniformQuantizer",
    "Unstructured",
    "UnsupportedLayerError",
    "Verification",
    "VerificationError",
    "benchmark",
    "export",
    "finalize",
    "load",
    "macs",
    "quantize_aware",
    "register_layer_rule",
    "report",
    "verify",
]
