"""The smallest file that loads: tries encodings in the runtime and takes the best."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.errors import ExportError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.tflite import SCRIPT

OBJECTIVES = ("raw", "zip", "latency")
# A float may be off by float16's rounding, an integer file by a step or two.
_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Trial:
    """One encoding and what became of it.

    Attributes:
        options: the exporter's options that make it.
        size: bytes, or `None` if it could not be made.
        zip_size: bytes after deflate, as in a zip archive.
        latency: median milliseconds of a call on one thread, or `None` if the runtime
            refused the file.
        problem: why it is out, or an empty string.
    """

    options: dict[str, Any]
    size: int | None = None
    zip_size: int | None = None
    latency: float | None = None
    problem: str = ""


def variants(integer: bool) -> list[dict[str, Any]]:
    """Returns the options to try; the first ones are what files are compared with."""
    if integer:
        return [
            {"int4": "none"},
            {"int4": "exact"},
            {"int4": "all"},
            {"int4": "none", "sparse": True},
        ]
    half = {"quantize": "float16"}
    return [{}, {"sparse": True}, half, {**half, "sparse": True}]


def smallest(
    convert: Callable[[dict[str, Any]], bytes], integer: bool, objective: str
) -> tuple[bytes, list[Trial]]:
    """Returns the best file that the runtime loads and runs right, and all trials.

    Args:
        convert: makes the file with some options, or raises `ExportError`.
        integer: whether the model is one of integers.
        objective: `"raw"` bytes, `"zip"` bytes or `"latency"`.

    Raises:
        ExportError: if the plain encoding does not work, as without trials.
    """
    contents: list[bytes] = []
    trials: list[Trial] = []
    reference: dict[str, np.ndarray] | None = None
    for options in variants(integer):
        try:
            content = convert(options)
        except ExportError as error:
            if reference is None:
                raise
            trials.append(Trial(options, problem=str(error)))
            contents.append(b"")
            continue
        contents.append(content)
        trial = Trial(options, len(content), len(zlib.compress(content, 9)))
        try:
            outputs, latency = _measured(content)
        except ConverterFailure as failure:
            if reference is None:
                raise failure.as_error(
                    "The converter's file does not run in LiteRT.",
                    "export the model again, on float32",
                ) from None
            trials.append(dataclasses.replace(trial, problem=failure.reason))
            continue
        reference = reference or outputs
        problem = _difference(outputs, reference)
        trials.append(dataclasses.replace(trial, latency=latency, problem=problem))
    fields = {"raw": "size", "zip": "zip_size", "latency": "latency"}
    able = [i for i, trial in enumerate(trials) if not trial.problem]
    best = min(able, key=lambda i: getattr(trials[i], fields[objective]))
    return contents[best], trials


def _measured(content: bytes) -> tuple[dict[str, np.ndarray], float]:
    """Runs a file in the worker; returns its outputs on random inputs, and its time."""
    with scratch() as directory:
        path, results = Path(directory) / "model.tflite", Path(directory) / "out.npz"
        path.write_bytes(content)
        reply = WORKER.run(
            {
                "job": "measure",
                "script": SCRIPT,
                "path": str(path),
                "outputs": str(results),
            }
        )
        with np.load(results) as stored:
            return dict(stored), float(reply["latency"])


def _difference(
    outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> str:
    for name, expected in reference.items():
        found = outputs[name].astype("float64")
        span = max(float(np.ptp(expected.astype("float64"))), 1e-6)
        largest = float(np.abs(found - expected).max(initial=0.0))
        if not largest <= _TOLERANCE * span + 2 * (expected.dtype.kind in "iu"):
            return f"output {name} is off by {largest:.3g}, of a range of {span:.3g}"
    return ""
