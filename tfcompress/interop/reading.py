"""Reads a Keras 2 model in a child process and returns what is in it, as plain data."""

from __future__ import annotations

import atexit
import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfcompress.child.probing import reading, require
from tfcompress.child.process import ConverterFailure, ConverterProcess
from tfcompress.core.errors import ArtifactError, InvalidArgumentError, one_line
from tfcompress.core.ownership import scratch

_SCRIPT = str(Path(__file__).with_name("_tf_keras_worker.py"))
# Not the converter's process: Keras 2 would take its tf.keras away.
KERAS_2 = ConverterProcess()
atexit.register(KERAS_2.close)
_EXPECTED = "a Functional or Sequential model that was saved whole by Keras 2"


class Reading(NamedTuple):
    """What is in a Keras 2 model.

    Attributes:
        description: its layers, and how they are called.
        weights: arrays by layer and position.
        samples: inputs `x:0` and so on, and the outputs `y:0`; empty if it cannot run.
    """

    description: dict[str, Any]
    weights: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]


def read(model: Any, packages: tuple[str, ...]) -> Reading:
    """Returns the layers of a Keras 2 model, their weights, and what it computes.

    Args:
        model: a path, or a built `tf_keras` model.
        packages: what the child process needs.
    """
    for package in packages:
        require(package, "tfmot")
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if not path.exists():
            raise ArtifactError(
                "There is no model at this path.", received=path, expected=_EXPECTED
            )
        return _asked(path)
    if not _is_tf_keras(model):
        raise InvalidArgumentError(
            "This is no model of Keras 2.",
            received=f"{type(model).__module__}.{type(model).__name__}",
            expected="a path, or a model made with tf_keras",
        )
    with scratch() as folder:
        return _asked(_saved(model, Path(folder)))


def _is_tf_keras(model: Any) -> bool:
    # Not by isinstance: that would import tf_keras here.
    modules = {kind.__module__.split(".")[0] for kind in type(model).__mro__}
    return "tf_keras" in modules and hasattr(model, "layers")


def _saved(model: Any, folder: Path) -> Path:
    path = folder / "model.h5"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that .h5 is an old format
            model.save(path)
    except Exception as error:
        raise InvalidArgumentError(
            "The model cannot be saved, so it cannot be handed to the child process.",
            received=f"'{model.name}' ({one_line(error, 300)})",
            expected="a built Functional or Sequential model",
        ) from error
    return path


def _asked(path: Path) -> Reading:
    with scratch() as folder:
        job = {
            "job": "describe",
            "script": _SCRIPT,
            "output": folder,
            **reading(path),
        }
        try:
            reply = KERAS_2.run(job)
        except ConverterFailure as failure:
            raise ArtifactError(
                "Keras 2 cannot read the model.",
                received=f"{path} ({failure.reason})",
                expected=_EXPECTED,
                fix="replace layers of your own by those of Keras, and save it again",
            ) from failure
        if "refused" in reply:
            raise ArtifactError(
                "The model cannot be converted.",
                received=f"{path}: {reply['refused']}",
                expected=_EXPECTED,
            )
        description = json.loads((Path(folder) / "model.json").read_text("utf-8"))
        arrays = (
            _arrays(Path(folder) / name) for name in ("weights.npz", "samples.npz")
        )
        return Reading(description, *arrays)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}
