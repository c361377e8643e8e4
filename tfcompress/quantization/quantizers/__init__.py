"""Quantizers: how a tensor is rounded. One class per file."""

from tfcompress.quantization.quantizers.base import QUANTIZERS, Quantizer
from tfcompress.quantization.quantizers.binary import BinaryQuantizer
from tfcompress.quantization.quantizers.blockwise import BlockwiseQuantizer
from tfcompress.quantization.quantizers.learned_step import LearnedStepQuantizer
from tfcompress.quantization.quantizers.ternary import TernaryQuantizer
from tfcompress.quantization.quantizers.uniform import UniformQuantizer

__all__ = [
    "QUANTIZERS",
    "BinaryQuantizer",
    "BlockwiseQuantizer",
    "LearnedStepQuantizer",
    "Quantizer",
    "TernaryQuantizer",
    "UniformQuantizer",
]
