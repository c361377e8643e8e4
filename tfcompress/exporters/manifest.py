"""The passport of an export: a JSON file that says what was written, and from what.

The schema is described in docs/shipping.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import ArtifactError, ExportError, warn
from tfcompress.core.select import walk
from tfcompress.exporters.artifact import Artifact, Format
from tfcompress.exporters.manifest_file import (
    SCHEMA,
    changed_since,
    manifest_path,
    read_manifest,
    sha256_of,
)
from tfcompress.exporters.publishing import (
    appearing_beside,
    folder_beside,
    staged,
    staging,
)
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.quantization.fake_quantize import FakeQuantize

#: What is not known yet when an artifact is written.
RECORDS = ("recipe", "parity")
_FEW_VALUES = 256
# Fingerprints of the files of what this process wrote.
_MADE_HERE: set[str] = set()
_FILES_MADE_HERE: set[str] = set()
_PACKAGES = ("tfcompress", "keras", "tensorflow", "numpy")


def publish(
    exporter: Format,
    model: keras.Model | dict[str, Any],
    target: Path,
    write: Callable[[Path], tuple[Artifact, dict[str, Any]]],
    another: Callable[[], Path] | None = None,
    vouched: bool = True,
) -> Artifact:
    """Lets an artifact and its manifest appear together, and describes the artifact.

    Args:
        exporter: the format.
        model: what is exported, or what the manifest says of it.
        target: where the file or directory is to appear.
        write: writes to a hidden path and compares what it wrote with the model;
            returns the description of it, and what is noted of the comparison.
        another: returns the next free target, for when `target` was taken meanwhile.
        vouched: whether what it was made of may be run in this process without a look.

    Raises:
        ExportError: if `target` exists or the disk refuses to take it.
    """
    one_file = exporter.one_file
    with contextlib.ExitStack() as stack:
        # The stack is left backwards: the manifest of a file appears after the file.
        if one_file:
            note = stack.enter_context(staged(manifest_path(target), overwrite=True))
        appear = stack.enter_context(appearing_beside())
        place = staging(target, exporter.overwrites, another)
        stage = stack.enter_context(place)
        written, noted = write(stage.path)
        name = target.name if one_file else ""
        text = manifest_text(model, exporter, written, name, noted)
        path = note if one_file else manifest_path(stage.path)
        path.write_text(text, encoding="utf-8")
        if written.compiled:
            appear(folder_beside(stage.path), folder_beside(stage.target))
    content = json.loads(text)
    if vouched:
        _MADE_HERE.add(_fingerprint(content))
        _FILES_MADE_HERE.update(entry["sha256"] for entry in content["files"])
    return written.moved(stage.target)


def manifest_text(
    model: keras.Model | dict[str, Any],
    exporter: Format,
    artifact: Artifact,
    name: str = "",
    compared: dict[str, Any] | None = None,
) -> str:
    """Returns the manifest of files that are still to be published, as JSON.

    Args:
        model: what was exported, or what is said of it.
        exporter: by what, with its options.
        artifact: the description of the files where they are now.
        name: the final name of an artifact that is one file.
        compared: on how many samples it was compared with the model, how closely.
    """
    root = artifact.path
    content = {
        "schema": SCHEMA,
        "format": artifact.format,
        "options": _options(exporter),
        "model": model if isinstance(model, dict) else model_facts(model),
        "versions": {"python": platform.python_version(), **_versions(exporter)},
        "inputs": [_tensor(info) for info in artifact.inputs],
        "outputs": [_tensor(info) for info in artifact.outputs],
        **_signatures(artifact),
        "operators": [dataclasses.asdict(count) for count in artifact.operators],
        "integer_coverage": artifact.integer_coverage,
        **({"npu": dataclasses.asdict(artifact.npu)} if artifact.npu else {}),
        **_compiled(artifact, name),
        "compared": compared,
        "size": sum(file.stat().st_size for file in artifact.files),
        "files": [
            {
                "path": name or file.relative_to(root).as_posix(),
                "size": file.stat().st_size,
                "sha256": sha256_of(file),
            }
            for file in artifact.files
        ],
        **dict.fromkeys(RECORDS),
    }
    return json.dumps(content, indent=1) + "\n"


def check_files(path: Path) -> bool:
    """Returns whether this process made the directory, and it is as it was then.

    The manifest that lies in a directory tells damage, and copies that are not whole.
    It cannot vouch for what somebody else wrote: he wrote the manifest too.

    Raises:
        ArtifactError: if a file is missing, or not as the manifest says.
    """
    manifest = read_manifest(path)
    if manifest is None:
        return False
    changed = changed_since(manifest, path)
    if changed:
        raise ArtifactError(
            "Files of the artifact are missing, or not as they were exported.",
            received=f"{path}: {', '.join(changed)}",
            expected="the files whose SHA-256 its manifest holds",
            fix="copy the directory again, or export the model again",
        )
    return _fingerprint(manifest) in _MADE_HERE


def made_here(file: Path) -> bool:
    """Returns whether this process made a file of the same content."""
    return bool(_FILES_MADE_HERE) and sha256_of(file) in _FILES_MADE_HERE


def record(artifact: Artifact, **contents: Any) -> None:
    """Writes what is known after the export into the manifest, where that is possible.

    Args:
        artifact: what was exported; nothing is written if its files changed since.
        **contents: JSON of `RECORDS`: what a verification measured as `parity`, how the
            model was compressed as `recipe`.
    """
    try:
        manifest = read_manifest(artifact)
        if manifest is None:
            return
        changed = changed_since(manifest, artifact.path)
        if changed:
            warn(
                f"The manifest {manifest_path(artifact.path)} is of other files: "
                f"{', '.join(changed)} changed since, or an export ended before its "
                "manifest was written. Nothing is recorded in it; export again."
            )
            return
        manifest.update({name: contents[name] for name in RECORDS if name in contents})
        with staged(manifest_path(artifact.path), overwrite=True) as stage:
            stage.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except (ArtifactError, ExportError, OSError):
        return  # of a folder that cannot be written to, nothing is lost


def _compiled(artifact: Artifact, name: str) -> dict[str, Any]:
    if not artifact.compiled:
        return {}
    folder = folder_beside(Path(name)).name
    return {
        "compiled": [
            {
                **dataclasses.asdict(one),
                "path": f"{folder}/{one.path.name}",
                "size": one.path.stat().st_size,
                "sha256": sha256_of(one.path),
            }
            for one in artifact.compiled
        ]
    }


def _fingerprint(manifest: Any) -> str:
    return json.dumps(manifest["files"], sort_keys=True)


def _options(exporter: Format) -> dict[str, Any]:
    options = exporter.get_config()
    # Where a file went and whether one was replaced says nothing about what it is.
    options.pop("overwrite", None)
    return json.loads(json.dumps(options, default=str))


def _versions(exporter: Format) -> dict[str, str]:
    found = {}
    for package in (*_PACKAGES, *exporter.packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def model_facts(model: keras.Model) -> dict[str, Any]:
    """Returns what a manifest says of the model that was exported."""
    kinds = Counter(type(layer).__name__ for _, layer in walk(model))
    kernels = [
        np.asarray(keras.ops.convert_to_numpy(w))
        for w in model.weights
        if len(w.shape) >= 2
    ]
    total = sum(kernel.size for kernel in kernels)
    zeros = sum(kernel.size - np.count_nonzero(kernel) for kernel in kernels)
    bits = {
        layer.num_bits for _, layer in walk(model) if isinstance(layer, FakeQuantize)
    }
    return {
        "name": model.name,
        "class": type(model).__name__,
        "parameters": int(model.count_params()),
        "kernel_sparsity": zeros / total if total else 0.0,
        "most_values_in_a_kernel": most_values(kernels),
        "activation_bits": sorted(bits),
        "layers": dict(sorted(kinds.items())),
        "seeds": sorted(set(_seeds(_config(model)))),
    }


def most_values(kernels: list[np.ndarray]) -> int | None:
    """Returns how many values the kernels have at most; None for more than a byte's."""
    most = 0
    for kernel in kernels:
        for values in (
            kernel.ravel()[: 4 * _FEW_VALUES],
            kernel,
        ):  # sorting all is slow
            count = len(np.unique(values))
            if count > _FEW_VALUES:
                return None
        most = max(most, count)
    return most


def _config(model: keras.Model) -> Any:
    try:
        return model.get_config()
    except Exception:  # a subclassed model need not have one
        return {}


def _seeds(config: Any) -> Iterator[int]:
    if isinstance(config, dict):
        seed = config.get("seed")
        if isinstance(seed, int):
            yield seed
        for value in config.values():
            yield from _seeds(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _seeds(value)


def _signatures(artifact: Artifact) -> dict[str, Any]:
    """Returns what is said of an artifact with several signatures."""
    if not artifact.signatures:
        return {}
    return {
        "signatures": [
            {
                "name": one.name,
                "inputs": [_tensor(info) for info in one.inputs],
                "outputs": [_tensor(info) for info in one.outputs],
            }
            for one in artifact.signatures
        ]
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {**dataclasses.asdict(info), "shape": list(info.shape)}
