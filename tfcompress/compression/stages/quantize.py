"""The stage `quantize`: integers, calibrated now and trained by fits that follow."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tfcompress.compression.run import Run, Technique
from tfcompress.compression.stages.base import COUNT, STAGES, Stage, argument
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.quantization.calibration.calibrate import calibrate
from tfcompress.quantization.calibration.choose_bits import choose_bits
from tfcompress.quantization.calibration.observers import OBSERVERS
from tfcompress.quantization.calibration.roundings import ROUNDINGS
from tfcompress.quantization.freeze import FreezeQuantization
from tfcompress.quantization.quantizers import UniformQuantizer
from tfcompress.quantization.scheme import QuantizationScheme, Scheme

# What layers may get where the least is given.
_WIDTHS = {"w4a8": (4, 8), "w2a8": (2, 4, 8)}


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
        rounding: how `calibrate` chooses the integers of 4 bits and fewer. None is
            `"adaptive"`, or `"nearest"` behind stages that make zeros and shared
            values.
        max_bytes: the most that weights may take: `scheme` then is what layers get at
            the least, and `choose_bits` chooses between it, 4 and 8 bits.
    """

    name: ClassVar[str] = "quantize"

    scheme: str = argument({"enum": ["w8a8", "w4a8", "w8a16", "w2a8", "w1a8"]}, "w8a8")
    granularity: str = argument({"enum": ["channel", "tensor"]}, "channel")
    keep: str | None = argument({"type": "string"}, None)
    samples: int = argument(COUNT, 256)
    observer: str = argument(lambda: {"enum": OBSERVERS.names()}, "mse")
    filters: str | None = argument({"type": "string"}, None)
    rounding: str | None = argument(lambda: {"enum": ROUNDINGS.spellings()}, None)
    max_bytes: int | None = argument(COUNT, None)

    def __post_init__(self) -> None:
        if self.max_bytes is None or (
            self.scheme in _WIDTHS and not self.keep and not self.filters
        ):
            return
        given = {name: getattr(self, name) for name in ("scheme", "keep", "filters")}
        raise InvalidArgumentError(
            "Stage 'quantize' chooses the bits of all layers under `max_bytes`.",
            received=", ".join(f"{name}={value!r}" for name, value in given.items()),
            expected=f"as scheme one of {', '.join(map(repr, _WIDTHS))}, the least "
            "that a layer gets, and neither `keep` nor `filters`",
        )

    def apply(self, run: Run) -> None:
        """Replaces the model by a calibrated one, which fits can train on."""
        samples = run.task.samples(self.samples)
        # Rounding that makes up for errors of other weights would move zeros and
        # shared values.
        usual = "nearest" if run.techniques else "adaptive"
        run.model = calibrate(
            run.model,
            samples,
            self._scheme(run, samples),
            self.filters,
            self.observer,
            rounding=self.rounding or usual,
        )
        run.first.append(Technique(_freeze_late, lambda epochs: _freeze_at_once()))

    def _scheme(self, run: Run, samples: Any) -> Scheme:
        """Returns the scheme of all layers, or that of each."""
        if self.max_bytes is not None:
            widths = _WIDTHS[self.scheme]
            return choose_bits(run.model, samples, self.max_bytes, widths=widths)
        eight = QuantizationScheme(UniformQuantizer(8, self.granularity))
        scheme = eight if self.scheme == "w8a8" else self.scheme
        return {self.keep: eight, ".*": scheme} if self.keep else scheme


def _freeze_late(epochs: int) -> FreezeQuantization:
    # The last epoch trains with the ranges that are deployed.
    return FreezeQuantization(ranges_at_epoch=max(epochs - 1, 0))


def _freeze_at_once() -> FreezeQuantization:
    return FreezeQuantization(ranges_at_epoch=0)
