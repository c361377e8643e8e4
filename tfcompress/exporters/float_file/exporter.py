"""Rounding a float .tflite file, for those who have no Keras model of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfcompress.child.failure import ConverterFailure
from tfcompress.child.probing import reading, require
from tfcompress.child.process import JAIL
from tfcompress.core.arguments import one_of
from tfcompress.core.errors import (
    ArtifactError,
    ExportError,
    InvalidArgumentError,
    warn,
)
from tfcompress.core.samples import FREE_SIZES, sample, shape_with
from tfcompress.exporters.artifact import Artifact, Format, get_exporter
from tfcompress.exporters.checks import check_suffix
from tfcompress.exporters.comparing import Bound, Trial, judged
from tfcompress.exporters.float_file import SCRIPT
from tfcompress.exporters.float_file.reading import (
    FileTrial,
    checked_path,
    described,
    file_trial,
    float_file,
)
from tfcompress.exporters.inputs import collect
from tfcompress.exporters.manifest import made_here, publish
from tfcompress.exporters.publishing import check_free
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.exporters.tflite.metadata import read_labels, with_labels

_RECIPES = {
    "w8a8": "static_wi8_ai8",
    "w8a16": "static_wi8_ai16",
    "dynamic": "dynamic_wi8_afp32",
    "float16": "float16",
}
_BITS = {"w8a8": [8], "w8a16": [16]}
_BOUNDS = {"dynamic": Bound(0.1, average=True), "float16": Bound(0.02)}
# Its ranges are those of the data, as of a model that is calibrated by the converter.
_OF_DATA = Bound(0.1, average=True, steps=False)
# Each hundred samples may take as long as what is run once.
_SAMPLES_AT_ONCE = 100
_TRIED = 4


@dataclass(frozen=True)
class FloatFileExporter(Format):
    """Rounds a float .tflite file by litert-quantizer.

    Args:
        scheme: bits of weights and activations: "w8a8" or "w8a16".
        io_dtype: "float32", or "int8" for a file whose inputs and outputs are
            integers.
        quantize: None; "float16" to store weights in half the bytes; "dynamic" to
            store them as 8-bit integers and compute in float. Neither needs data.
        overwrite: whether an existing file may be replaced.
    """

    scheme: str = "w8a8"
    io_dtype: str = "float32"
    quantize: str | None = None
    overwrite: bool = False

    one_file: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "litert-quantizer")

    def export(
        self, model: Any, filepath: Path, input_signature: Any, calibration_data: Any
    ) -> Artifact:
        """Writes the rounded file atomically and returns its description."""
        self._check_options(input_signature, calibration_data)
        check_suffix(filepath, ".tflite")
        source = float_file(model)
        _check_other(source.path, filepath)
        check_free(filepath, self.overwrite)
        require("litert_quantizer", "quantizer")
        samples = None
        if calibration_data is not None:
            _check_loops(source)
            rows = source.inputs[0].shape[0] or 1 if source.inputs[0].shape else 1
            samples = collect(calibration_data, source.inputs, rows)
            _check_finite(samples)
        tried = _tried(source, samples)
        return publish(
            self,
            described(source, [] if self.quantize else _BITS[self.scheme]),
            filepath,
            lambda stage: self._write(source, samples, tried, stage),
            # A stranger's file is one after it was rounded, too.
            vouched=made_here(source.path),
        )

    def _check_options(self, input_signature: Any, calibration_data: Any) -> None:
        one_of(self.scheme, "Unknown `scheme` of a file.", tuple(_BITS))
        one_of(self.quantize, "Unknown `quantize`.", (None, "float16", "dynamic"))
        one_of(self.io_dtype, "Unknown `io_dtype` of a file.", ("float32", "int8"))
        if input_signature is not None:
            raise InvalidArgumentError(
                "A file says itself what it takes.",
                received="input_signature",
                expected="no `input_signature`",
            )
        if self.quantize is None and calibration_data is None:
            raise InvalidArgumentError(
                "A float file becomes integers by typical inputs, which give ranges.",
                received="no calibration_data",
                expected="100 to 500 typical samples as `calibration_data`",
                fix='pass them, or quantize="dynamic" or "float16", which need none',
            )
        if self.quantize is not None and calibration_data is not None:
            raise InvalidArgumentError(
                "`quantize` and `calibration_data` exclude each other.",
                received=f"quantize={self.quantize!r} with calibration data",
                expected="calibration data alone, for integers",
            )
        if self.io_dtype == "int8" and (self.quantize or self.scheme != "w8a8"):
            raise InvalidArgumentError(
                "Only a file of 8-bit activations has inputs and outputs of int8.",
                received=f"scheme={self.scheme!r}, quantize={self.quantize!r}",
                expected='scheme="w8a8" and calibration data',
            )

    def _write(
        self,
        source: Artifact,
        samples: dict[str, np.ndarray] | None,
        tried: Trial,
        stage: Path,
    ) -> tuple[Artifact, dict[str, Any]]:
        content = self._rounded(source, samples)
        stage.write_bytes(content)
        written = get_exporter("tflite").inspect(stage)
        _check_ports(source, written)
        if written.size > source.size:
            warn(
                f"The rounded file has {written.size:,} bytes and the float one "
                f"{source.size:,}: it has few weights, or few that can be rounded."
            )
        runner = get_exporter("tflite").runner(stage, None)
        if tried.inputs is None:
            return written, {"samples": 0, "bound": None}
        bound = _BOUNDS.get(self.quantize or "", _OF_DATA)
        actual = runner.run(tried.inputs)
        return written, judged(tried, written, "LiteRT", actual, bound)

    def _rounded(
        self, source: Artifact, samples: dict[str, np.ndarray] | None
    ) -> bytes:
        """Returns the rounded file, made in the child process that may do least."""
        arrays = {str(i): c for i, c in enumerate((samples or {}).values())}
        count = max((len(column) for column in arrays.values()), default=0)
        limits = reading(source.path)
        for name in ("cpu_seconds", "wall_seconds"):
            limits[name] *= 1 + count // _SAMPLES_AT_ONCE
        limits["memory"] += 8 * sum(column.nbytes for column in arrays.values())
        first = source.inputs[0].shape if source.inputs else ()
        job = {
            **limits,
            "job": "quantize",
            "script": SCRIPT,
            "recipe": _RECIPES[self.quantize or self.scheme],
            "float_ports": self.io_dtype == "float32",
            "inputs": [info.name for info in source.inputs],
            "outputs": [info.name for info in source.outputs],
            "batch_size": (first[0] if first else None) or 1,
        }
        try:
            content = JAIL.run(job, arrays)["arrays"]["content"].tobytes()
        except ConverterFailure as failure:
            raise failure.as_error(
                "litert-quantizer crashed on the file; nothing was written."
                if failure.died
                else "litert-quantizer refused the file; nothing was written.",
                'try quantize="dynamic" or "float16", or export the model that the '
                "file was made of",
            ) from None
        TFLiteFile(content, "litert-quantizer's output")
        # They lie behind the file, where the quantizer does not look.
        return with_labels(content, read_labels(source.path.read_bytes()))


def export_file(
    model: str | os.PathLike,
    filepath: Path,
    format: Any,
    input_signature: Any,
    calibration_data: Any,
    options: dict[str, Any],
) -> Artifact:
    """Is `export` for the path of a float .tflite file.

    Raises:
        InvalidArgumentError: for formats and options that cannot be had of a file.
    """
    checked_path(model)
    if format != "tflite":
        raise InvalidArgumentError(
            "A .tflite file stays one.",
            received=f"format={format!r} with a file",
            expected='format="tflite"',
            fix="other formats are made of a keras.Model",
        )
    exporter = FloatFileExporter().with_options(options)
    return exporter.export(model, filepath, input_signature, calibration_data)


def _check_other(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        raise InvalidArgumentError(
            "The rounded file would take the place of the float one.",
            received=str(target),
            expected="another path: `verify` compares the two",
        )


def _check_loops(source: Artifact) -> None:
    if any(operator.name == "WHILE" for operator in source.operators):
        raise InvalidArgumentError(
            "The file has a loop, whose ranges litert-quantizer cannot find.",
            received=f"{source.path} with the operator WHILE, as of recurrent layers",
            expected="a file without loops",
            fix='`calibrate` the Keras model of the file, or pass quantize="dynamic"',
        )


def _check_finite(samples: dict[str, np.ndarray]) -> None:
    for name, column in samples.items():
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise InvalidArgumentError(
                f"The calibration data of input {name!r} are no numbers.",
                received=f"{int((~np.isfinite(column)).sum())} NaN or infinite values",
                expected="finite numbers, which have a least and a largest one",
            )


def _check_ports(source: Artifact, written: Artifact) -> None:
    """Raises unless the rounded file is called as the float one is."""
    for before, after in (
        (source.inputs, written.inputs),
        (source.outputs, written.outputs),
    ):
        names = [info.name for info in after]
        if names != [info.name for info in before]:
            raise ExportError(
                "litert-quantizer changed the inputs or outputs; nothing was written.",
                received=", ".join(names),
                expected=", ".join(info.name for info in before),
            )


def _tried(source: Artifact, samples: dict[str, np.ndarray] | None) -> Trial:
    """Returns a few samples, and what the float file makes of them."""
    runner = get_exporter("tflite").runner(source.path, None)
    batch = runner.batch_size or 1
    rows = max(batch, _TRIED // batch * batch)
    if samples is not None:
        return file_trial(runner, {n: c[:rows] for n, c in samples.items()})
    generator = np.random.default_rng(0)
    for size in FREE_SIZES:
        inputs = {
            info.name: sample(shape_with(info.shape, rows, size), info.dtype, generator)
            for info in source.inputs
        }
        try:
            return file_trial(runner, inputs)
        except (ArtifactError, InvalidArgumentError, RuntimeError, ValueError):
            continue  # numbers that mean nothing to it
    outputs = {info.name: np.zeros(0) for info in source.outputs}
    return FileTrial(runner, None, None, outputs, False)
