"""The stage `quantize`: integers, calibrated now and trained by fits that follow."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfcompress.compression.run import Run, Technique
from tfcompress.compression.stages.base import COUNT, STAGES, Stage, argument
from tfcompress.quantization.calibration.calibrate import calibrate
from tfcompress.quantization.calibration.observers import OBSERVERS
from tfcompress.quantization.freeze import FreezeQuantization
from tfcompress.quantization.quantizers import UniformQuantizer
from tfcompress.quantization.scheme import QuantizationScheme


@STAGES.register("quantize")
@dataclasses.dataclass(frozen=True)
class Quantize(Stage):
    """Rounds weights and activations; without a fit after it, by calibration alone.

    Args:
        scheme: bits of weights and activations, as in `quantize_aware`. In LiteRT,
            `"w8a16"` takes 5 to 105 times as long as `"w8a8"`.
        granularity: whether a channel of an 8-bit kernel has a scale of its own. One
            scale for the whole kernel keeps shared values shared.
        keep: regular expression on the paths of layers that get 8 bits in any case.
        samples: training samples from which ranges are taken.
        observer: what chooses ranges.
        filters: regular expression on the paths of layers; None means all.
    """

    name: ClassVar[str] = "quantize"

    scheme: str = argument({"enum": ["w8a8", "w4a8", "w8a16", "w2a8", "w1a8"]}, "w8a8")
    granularity: str = argument({"enum": ["channel", "tensor"]}, "channel")
    keep: str | None = argument({"type": "string"}, None)
    samples: int = argument(COUNT, 256)
    observer: str = argument(lambda: {"enum": OBSERVERS.names()}, "mse")
    filters: str | None = argument({"type": "string"}, None)

    def apply(self, run: Run) -> None:
        """Replaces the model by a calibrated one, which fits can train on."""
        eight = QuantizationScheme(UniformQuantizer(8, self.granularity))
        scheme = eight if self.scheme == "w8a8" else self.scheme
        run.model = calibrate(
            run.model,
            run.task.samples(self.samples),
            {self.keep: eight, ".*": scheme} if self.keep else scheme,
            self.filters,
            self.observer,
            # Rounding that makes up for errors of other weights would move zeros and
            # shared values.
            rounding="nearest" if run.techniques else "adaptive",
        )
        run.first.append(Technique(_freeze_late, lambda epochs: _freeze_at_once()))


def _freeze_late(epochs: int) -> FreezeQuantization:
    # The last epoch trains with the ranges that are deployed.
    return FreezeQuantization(ranges_at_epoch=max(epochs - 1, 0))


def _freeze_at_once() -> FreezeQuantization:
    return FreezeQuantization(ranges_at_epoch=0)
