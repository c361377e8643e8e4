"""Compares a Keras model with what ONNX Runtime computes of the same file."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import tfcompress.exporters.onnx
from tfcompress.child.probing import reading
from tfcompress.child.process import JAIL, ConverterFailure
from tfcompress.core.errors import ArtifactError, UnsupportedLayerError, warn
from tfcompress.interop.onnx.inputs import Inputs
from tfcompress.interop.onnx.reading import File
from tfcompress.interop.onnx.rebuilding import Rebuilt

_SCRIPT = str(Path(tfcompress.exporters.onnx.__file__).with_name("_worker.py"))
# How far outputs may be off, as a share of the largest. Half floats are rounded in ONNX
# Runtime after each operation, and here not at all.
_ERROR, _HALF_ERROR = 1e-4, 3e-2
_SAMPLES = 2


def compare(file: File, inputs: Inputs, made: Rebuilt) -> float | None:
    """Returns by how much the outputs differ on random inputs; None if not compared.

    ONNX Runtime runs in the jailed child process, since nobody vouches for the file.

    Raises:
        UnsupportedLayerError: if they are not the same.
        ArtifactError: if ONNX Runtime refuses the file.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        warn(
            f"The model was not compared with {file.path}, because onnxruntime is not "
            "installed: pip install 'tfcompress[onnx]'."
        )
        return None
    samples = _samples(inputs, made)
    wanted = _run(file, samples)
    for name, order in zip(file.outputs, made.outputs):
        _check_samples(file, name, wanted[name], order, inputs.fixed or _SAMPLES)
    arrays = [
        ops.convert_to_tensor(_narrowed(samples[port.name]).transpose(order))
        for port, order in zip(inputs.ports, made.inputs)
    ]
    outputs = made.model(arrays[0] if len(arrays) == 1 else arrays, training=False)
    half = any(port.dtype in ("float16", "bfloat16") for port in inputs.ports)
    share, largest = _HALF_ERROR if half else _ERROR, 0.0
    for name, order, output in zip(
        file.outputs, made.outputs, keras.tree.flatten(outputs)
    ):
        found = ops.convert_to_numpy(output).transpose(np.argsort(order))
        largest = max(largest, _difference(file, name, found, wanted[name], share))
    return largest


def _check_samples(
    file: File, name: str, output: np.ndarray, order: Sequence[int], count: int
) -> None:
    """Raises where an output is not a row for each sample, as Keras' outputs are."""
    if output.ndim == 0 or output.shape[order[0]] != count:
        raise UnsupportedLayerError(
            "An output of the file mixes samples.",
            received=f"{file.path}, output '{name}' of shape {output.shape} for "
            f"{count} samples",
            expected="outputs with an axis of the samples",
            fix="export the model without what reshapes or reduces this axis",
        )


def _difference(
    file: File, name: str, found: np.ndarray, wanted: np.ndarray, share: float
) -> float:
    values, finite = wanted.astype("float64"), np.isfinite(wanted)
    limit = share * np.abs(values[finite]).max(initial=0.0)
    alike, off = found.shape == wanted.shape, ""
    if alike:
        difference = np.abs(found[finite] - values[finite]).max(initial=0.0)
        off = f", off by {difference:.3g}"
        # Infinities and NaN are the same where they are.
        if np.allclose(found.astype("float64"), values, 0.0, limit, equal_nan=True):
            return float(difference)
    raise UnsupportedLayerError(
        "Keras computes something else of this model than ONNX Runtime.",
        received=f"{file.path}, output '{name}' of random inputs, of shapes "
        f"{found.shape} and {wanted.shape}{off}",
        expected=f"the same numbers, within {share:g} of the largest",
        fix="export parts of the model to find the node, and tell us of it",
    )


def _samples(inputs: Inputs, made: Rebuilt) -> dict[str, np.ndarray]:
    """Returns random inputs as the file wants them."""
    rng = np.random.default_rng(0)
    count = inputs.fixed or _SAMPLES
    found = {}
    for port in inputs.ports:
        shape = [count if n == inputs.batch else n for n in inputs.shapes[port.name]]
        if port.dtype[0] in "iu":
            values: Any = rng.integers(0, made.rows.get(port.name, 2), shape)
        elif port.dtype == "bool":
            values = rng.integers(0, 2, shape)
        else:
            values = rng.normal(size=shape)
        found[port.name] = values.astype(port.dtype)
    return found


def _narrowed(array: np.ndarray) -> np.ndarray:
    """Returns numbers of the type that the Keras model takes."""
    kinds = {"b": "bool", "i": "int32", "u": "int32"}
    return array.astype(kinds.get(array.dtype.kind, "float32"))


def _run(file: File, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    job = {
        **reading(file.path),
        "job": "call",
        "script": _SCRIPT,
        "threads": 1,
        "outputs": file.outputs,
        "stamp": [str(file.path), file.path.stat().st_mtime_ns],
    }
    try:
        return JAIL.run(job, samples)["arrays"]
    except ConverterFailure as failure:
        error = ArtifactError(
            "The .onnx file does not run in ONNX Runtime, so nothing can be compared.",
            received=f"{file.path} ({failure.reason})",
            expected="a whole file that ONNX Runtime can run within its limits of time "
            "and memory",
            fix="export the model again, or copy the file again",
        )
        error.log = failure.log
        raise error from None
