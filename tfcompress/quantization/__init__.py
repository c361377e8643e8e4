"""Quantization: how numbers are rounded, in training and by calibration."""

from tfcompress.quantization.calibration.calibrate import calibrate
from tfcompress.quantization.calibration.choose_bits import choose_bits
from tfcompress.quantization.calibration.mixed_precision import mixed_precision
from tfcompress.quantization.calibration.observers import (
    MinMaxObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
)
from tfcompress.quantization.calibration.roundings import BRECQ, AdaRound
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.freeze import FreezeQuantization
from tfcompress.quantization.quantize import quantize_aware
from tfcompress.quantization.quantizers import (
    BinaryQuantizer,
    BlockwiseQuantizer,
    LearnedStepQuantizer,
    Quantizer,
    TernaryQuantizer,
    UniformQuantizer,
)
from tfcompress.quantization.scheme import QuantizationScheme
from tfcompress.quantization.wrapper import QuantizedLayer

__all__ = [
    "BRECQ",
    "AdaRound",
    "BinaryQuantizer",
    "BlockwiseQuantizer",
    "FakeQuantize",
    "FreezeQuantization",
    "LearnedStepQuantizer",
    "MSEObserver",
    "MinMaxObserver",
    "Observer",
    "PercentileObserver",
    "QuantizationScheme",
    "QuantizedLayer",
    "Quantizer",
    "TernaryQuantizer",
    "UniformQuantizer",
    "calibrate",
    "choose_bits",
    "mixed_precision",
    "quantize_aware",
]
