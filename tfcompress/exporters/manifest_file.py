"""Manifests as files: where they lie, and what is read from them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tfcompress.core.errors import ArtifactError
from tfcompress.exporters.publishing import LONGEST_PART, is_inside

SCHEMA = 1
_NAME = "manifest.json"


def manifest_path(path: Path) -> Path:
    """Returns where the manifest of the artifact at `path` is.

    >>> print(manifest_path(Path("student.tflite")))
    student.tflite.manifest.json
    """
    if (path / "saved_model.pb").exists():
        return path / "assets.extra" / _NAME  # the folder that servers do not read
    if (path / "Manifest.json").exists():
        # A package of Core ML, and disks of Macs know no large and small letters.
        return path / "Data" / "tfcompress" / _NAME
    if path.is_dir():
        return path / _NAME
    name = f"{path.name}.{_NAME}"
    if len(os.fsencode(name)) > LONGEST_PART:
        # Whole names of files of such names would be too long themselves.
        known = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        most = LONGEST_PART - len(f"-{known}.{_NAME}")
        start = os.fsencode(path.name)[:most].decode("utf-8", "ignore")
        name = f"{start}-{known}.{_NAME}"
    return path.with_name(name)


def read_manifest(artifact: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns the manifest of an artifact, or None where there is none.

    Raises:
        ArtifactError: if it is no JSON of a known schema.
    """
    path = manifest_path(Path(artifact))
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        _check_entries(content["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            "The manifest cannot be read.",
            received=f"{path} ({error})",
            expected=f"a manifest of schema {SCHEMA}",
            fix="export the model again, or remove the manifest",
        ) from error
    return content


def _check_entries(files: Any) -> None:
    """Raises if this is no list of files, or names one outside of the artifact."""
    for entry in files:
        for field, kind in (("path", str), ("sha256", str), ("size", int)):
            if not isinstance(entry[field], kind):
                raise TypeError(f"{field} is {entry[field]!r}")
        if not is_inside(entry["path"]):
            raise ValueError(f"it names the path {entry['path']!r}")


def changed_files(path: Path) -> list[str] | None:
    """Returns the files that are not as the manifest says; None without a manifest."""
    manifest = read_manifest(path)
    return None if manifest is None else changed_since(manifest, path)


def changed_since(manifest: dict[str, Any], path: Path) -> list[str]:
    """Returns the files at `path` that are not as this manifest says."""
    root = path if path.is_dir() else path.parent
    return [
        entry["path"]
        for entry in manifest["files"]
        if not (root / entry["path"]).is_file()
        or sha256_of(root / entry["path"]) != entry["sha256"]
    ]


def sha256_of(file: Path) -> str:
    """Returns the SHA-256 of a file's content, read in parts."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
