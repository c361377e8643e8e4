"""The base of the exporters: what every export does, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.child.process import WORKER
from tfcompress.core.backend import require_tensorflow
from tfcompress.exporters.artifact import Artifact, Format
from tfcompress.exporters.comparing import Trial, trial
from tfcompress.exporters.manifest import publish
from tfcompress.exporters.operations import refuse_random
from tfcompress.exporters.publishing import check_free
from tfcompress.exporters.tracing import TracedModel


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        model: the model.
        traced: its trace.
        batch_size: samples per call of the artifact; None for any number.
        input_signature: as in `export`.
        samples: calibration data, a column for each input; None without any.
    """

    model: Any
    traced: TracedModel
    batch_size: int | None
    input_signature: Any
    samples: dict[str, np.ndarray] | None = None

    @cached_property
    def tried(self) -> Trial:
        """Samples, and what the model makes of them."""
        return trial(self.model, self.traced, self.batch_size, self.input_signature)


@dataclass(frozen=True)
class Exporter(Format):
    """Base class of the exporters; its fields are the format's options.

    Subclass it, register the class with `EXPORTERS.register(name)` and implement
    `check`, `source` and `write`, and `matches`, `inspect` and `runner`, to add a
    format. `limits` says what the format cannot take. A class that shares nothing
    with this order of work overrides `export` itself.
    """

    def export(
        self, model: Any, filepath: Path, input_signature: Any, calibration_data: Any
    ) -> Artifact:
        """Writes `model` to `filepath` atomically and returns what was written."""
        require_tensorflow("export a model")
        target = self.check(filepath, calibration_data)
        check_free(target, self.overwrites)
        # TensorFlow's import in the worker overlaps with tracing and saving here.
        WORKER.warm_up()
        source = self.source(model, input_signature, calibration_data)
        if not self.limits.keeps_states:
            # A seed is a state, and would be the same in each call.
            refuse_random(source.traced.function, source.model, self.limits.runtime)
        return publish(
            self,
            model,
            target,
            lambda stage: self.written(source, stage, target),
            lambda: self.check(filepath, calibration_data),
        )

    def written(
        self, source: Source, stage: Path, target: Path
    ) -> tuple[Artifact, dict[str, Any]]:
        """Is `write`, and what is made of its artifact before both appear."""
        return self.write(source, stage)

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns where the artifact is to appear, which mostly is `filepath`.

        It is asked again if another writer was faster there.

        Raises:
            InvalidArgumentError: if an option, the path or the data are wrong.
            ExportError: if a package is missing.
        """
        raise NotImplementedError

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model as the format needs it: traced, with its samples."""
        raise NotImplementedError

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Writes the artifact to `stage` and compares it with its model.

        Returns:
            The description of what was written, and what the manifest says of how it
            was compared, as `compared` returns it.
        """
        raise NotImplementedError
