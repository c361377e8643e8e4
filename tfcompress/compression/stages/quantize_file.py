"""The stage `quantize_file`: integers of the written file, by litert-quantizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from tfcompress.child.probing import require
from tfcompress.compression.run import Run
from tfcompress.compression.stages.base import COUNT, STAGES, Stage, argument
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.export import export


@STAGES.register("quantize_file")
@dataclasses.dataclass(frozen=True)
class QuantizeFile(Stage):
    """Rounds the exported float .tflite file by litert-quantizer; the last stage.

    Args:
        scheme: bits of weights and activations, "w8a8" or "w8a16".
        samples: training samples from which ranges are taken.
    """

    name: ClassVar[str] = "quantize_file"
    of_file: ClassVar[bool] = True

    scheme: Literal["w8a8", "w8a16"] = argument({"enum": ["w8a8", "w8a16"]}, "w8a8")
    samples: int = argument(COUNT, 256)

    def check(self) -> None:
        """Raises `ExportError` without the extra, before anything is trained."""
        require("litert_quantizer", "quantizer")

    def apply(self, run: Run) -> None:
        """Leaves the model as it is: the file is rounded when it is there."""

    def rewritten(
        self, source: Artifact | Path, target: Path, samples: Callable[[int], Any]
    ) -> Artifact:
        """Rounds the float file `source` into `target`.

        Raises:
            ExportError: if the quantizer refuses the file.
        """
        data = samples(self.samples)
        return export(source, target, calibration_data=data, scheme=self.scheme)
