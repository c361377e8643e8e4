"""The contract of export formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.exporters.artifact import EXPORTERS, Artifact, Format, exporter_for
from tfcompress.exporters.export import export, load
from tfcompress.exporters.keras_runner import KerasRunner
from tfcompress.exporters.manifest import manifest_path, read_manifest
from tfcompress.testing.tools import require, round_trip


def check_exporter(
    exporter: Format,
    filepath: str | os.PathLike,
    model: Any = None,
    tolerance: float = 1e-3,
) -> None:
    """Checks that `exporter` writes a whole artifact that computes what the model does.

    When to use: in the tests of an export format of your own.

    Args:
        exporter: an instance, registered with `EXPORTERS`, that does not overwrite.
        filepath: where to write, in a directory that holds nothing else.
        model: what is exported, with inputs of any values; None for a small
            convolutional network.
        tolerance: how far its outputs may be from the model's.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    ```python
    check_exporter(MyExporter(), tmp_path / "model.mine")
    ```
    """
    name, path = type(exporter).__name__, Path(filepath)
    round_trip(exporter)
    require(
        any(EXPORTERS.class_of(known) is type(exporter) for known in EXPORTERS.names()),
        f"{name} is not registered: put @EXPORTERS.register(...) above it",
    )
    try:
        exporter.with_options({"no_such_option": 1})
    except InvalidArgumentError:
        pass
    else:
        raise AssertionError(f"{name}.with_options() takes options that it has not")
    model = _model() if model is None else model
    weights = model.get_weights()
    artifact = export(model, path, format=exporter)
    require(
        all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights())),
        f"{name}.export() changes the model's weights",
    )
    _check_files(name, artifact, path)
    require(
        exporter.matches(path) and type(exporter_for(path)) is type(exporter),
        f"{name}.matches() does not know what it wrote, or another format does",
    )
    read = Artifact.read(path)
    other = [n for n, v in vars(artifact).items() if getattr(read, n, None) != v]
    require(
        read == artifact,
        f"{name}.inspect() and export() describe the artifact differently: "
        + "; ".join(f"{n} {getattr(read, n)} and {vars(artifact)[n]}" for n in other),
    )
    _check_outputs(name, load(path), model, tolerance)
    before = {file: file.read_bytes() for file in artifact.files}
    try:
        export(model, path, format=exporter)
    except (ExportError, InvalidArgumentError):
        pass
    else:
        raise AssertionError(f"{name}.export() writes over what is there")
    require(
        all(file.read_bytes() == content for file, content in before.items()),
        f"{name}.export() changed the artifact that was there",
    )


def _check_files(name: str, artifact: Artifact, path: Path) -> None:
    require(
        artifact.path == path,
        f"{name}.export() was to write {path}, its artifact says {artifact.path}",
    )
    missing = [file.name for file in artifact.files if not file.is_file()]
    require(
        artifact.files and not missing,
        f"{name} names files that it did not write: {', '.join(missing) or 'none'}",
    )
    require(
        read_manifest(artifact) is not None,
        f"{name}.export() leaves no manifest; write with `publish`, as `Exporter` does",
    )
    known = {path, manifest_path(path)}
    over = sorted({*path.parent.iterdir()} - known)
    require(
        not over, f"{name}.export() leaves {', '.join(p.name for p in over)} behind"
    )


def _check_outputs(name: str, runner: Any, model: Any, tolerance: float) -> None:
    reference = KerasRunner(model)
    require(
        [info.name for info in runner.inputs] == [i.name for i in reference.inputs],
        f"{name} calls the inputs {[info.name for info in runner.inputs]}, the model "
        f"{[info.name for info in reference.inputs]}",
    )
    rng = np.random.default_rng(0)
    samples = {}
    for info in reference.inputs:
        shape = (5, *(size or 5 for size in info.shape[1:]))
        samples[info.name] = rng.normal(size=shape).astype("float32")
    expected, found = reference.run(samples), runner.run(samples)
    require(
        list(found) == list(expected),
        f"{name} calls the outputs {list(found)}, the model {list(expected)}",
    )
    for output, values in expected.items():
        require(
            found[output].shape == values.shape,
            f"output {output!r} of {name} has shape {found[output].shape}, the model's "
            f"{values.shape}",
        )
        apart = float(np.max(np.abs(found[output] - values)))
        require(
            apart <= tolerance,
            f"output {output!r} of {name} is off by {apart:.3g}, more than {tolerance}",
        )


def _model() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2), name="image")
    x = keras.layers.Conv2D(3, 3, activation="relu", name="conv")(image)
    x = keras.layers.Flatten(name="flat")(x)
    return keras.Model(image, keras.layers.Dense(4, name="scores")(x), name="small")
