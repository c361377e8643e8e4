"""Roundings: how `calibrate` chooses the integers of kernels. One class per file."""

from tfcompress.quantization.calibration.roundings.adaptive import Adaptive
from tfcompress.quantization.calibration.roundings.adaround import AdaRound
from tfcompress.quantization.calibration.roundings.base import ROUNDINGS, Rounding
from tfcompress.quantization.calibration.roundings.brecq import BRECQ
from tfcompress.quantization.calibration.roundings.nearest import Nearest

__all__ = ["BRECQ", "ROUNDINGS", "AdaRound", "Adaptive", "Nearest", "Rounding"]
