"""Quantizers: how a tensor is rounded. One class per file."""

from tfcompress.quantization.quantizers.base import Quantizer, quantizers
from tfcompress.quantization.quantizers.uniform import UniformQuantizer

__all__ = ["Quantizer", "UniformQuantizer", "quantizers"]
