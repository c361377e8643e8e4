"""What a float .tflite file is before it is rounded."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.core.arguments import path_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import EXPORTERS, Artifact, exporter_for
from tfcompress.exporters.comparing import Trial
from tfcompress.exporters.manifest import most_values
from tfcompress.exporters.manifest_file import sha256_of
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

_KERAS = (".keras", ".h5", ".hdf5")
_SMALL_FLOATS = {"float16", "bfloat16"}


class FileTrial(Trial):
    """Samples, and what the float file makes of them in LiteRT."""

    def again(self, rows: int) -> dict[str, np.ndarray]:
        """Returns the same: the file has one size of calls."""
        return self.expected

    def swings(self) -> dict[str, np.ndarray]:
        """Returns zeros: what is off by a tenth is not for want of steadiness."""
        return {name: np.zeros(1) for name in self.expected}


def float_file(filepath: str | os.PathLike) -> Artifact:
    """Returns the description of a .tflite file that computes in floats.

    Raises:
        ArtifactError: if nothing is there, or it is damaged.
        InvalidArgumentError: if it is another format, or already rounded.
    """
    path = checked_path(filepath)
    exporter = exporter_for(path)
    if not isinstance(exporter, EXPORTERS.class_of("tflite")):
        raise InvalidArgumentError(
            "Of files, only .tflite files can be rounded.",
            received=str(path),
            expected="a keras.Model, or the path of a float .tflite file",
            fix="export the model that the file was made of",
        )
    file = TFLiteFile.open(path)
    tensors = [tensor for graph in file.tensors for tensor in graph]
    rounded = [t for t in tensors if t.zero_points]
    small = [t for t in tensors if t.constant and t.info.dtype in _SMALL_FLOATS]
    for found, kind in ((rounded, "integers"), (small, "16-bit floats")):
        if found:
            raise InvalidArgumentError(
                f"The file holds {kind} already, and is not rounded once more.",
                received=f"{path} ({len(found)} tensors, such as "
                f"'{found[0].info.name}' of {found[0].info.dtype})",
                expected="a .tflite file of 32-bit floats",
                fix="start from the float file that it was made of",
            )
    return exporter.inspect(path)


def checked_path(filepath: str | os.PathLike) -> Path:
    """Returns the path of what may be a .tflite file.

    Raises:
        InvalidArgumentError: for the file of a Keras model, and for a text that is no
            path of anything.
    """
    path = path_of(filepath, "model")
    expected = "a keras.Model, or the path of a float .tflite file"
    if path.suffix.lower() in _KERAS:
        raise InvalidArgumentError(
            "A Keras model is exported, and not its file.",
            received=str(path),
            expected=expected,
            fix="load it: keras.saving.load_model(path)",
        )
    if path.suffix.lower() != ".tflite" and not path.exists():
        raise InvalidArgumentError(
            "Only a Keras model or a float .tflite file can be exported.",
            received=repr(str(filepath)),
            expected=expected,
        )
    return path


def described(artifact: Artifact, bits: list[int]) -> dict[str, Any]:
    """Returns what the manifest says of the file that was rounded.

    Args:
        artifact: the float file.
        bits: those of the activations, where these are integers.
    """
    file = TFLiteFile.open(artifact.path)
    tensors = [tensor for graph in file.tensors for tensor in graph]
    constants = {
        id(tensor.constant): len(tensor.constant) // 4
        for tensor in tensors
        if tensor.constant and tensor.info.dtype == "float32"
    }
    kernels = [values for _, values in file.weights()]
    total = sum(kernel.size for kernel in kernels)
    zeros = sum(kernel.size - np.count_nonzero(kernel) for kernel in kernels)
    return {
        "name": artifact.path.stem,
        "class": "float .tflite file",
        "sha256": sha256_of(artifact.path),
        "parameters": sum(constants.values()),
        "kernel_sparsity": zeros / total if total else 0.0,
        "most_values_in_a_kernel": most_values(kernels),
        "activation_bits": bits,
        "layers": dict(sorted(Counter(op.name for op in file.operators).items())),
        "seeds": [],
    }


def file_trial(runner: Runner, inputs: dict[str, np.ndarray]) -> FileTrial:
    """Returns the outputs of the float file for the samples."""
    return FileTrial(runner, None, inputs, runner.run(inputs), False)
