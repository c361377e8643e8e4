"""What all layouts share: which artifacts and names they take, and copies of files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.manifest_file import manifest_path
from tfcompress.exporters.publishing import check_free

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def check_artifact(artifact: Artifact, formats: dict[str, str]) -> None:
    """Raises if a server takes no such artifact, or its files are not as exported.

    Args:
        artifact: what the user passed.
        formats: the formats that the server takes, with what to call each.
    """
    if not isinstance(artifact, Artifact) or artifact.format not in formats:
        known = " or ".join(f'`export(..., format="{name}")`' for name in formats)
        raise InvalidArgumentError(
            f"Only {' or '.join(formats.values())} can be laid out for this server.",
            received=str(artifact),
            expected=f"what {known} returned",
        )
    check_files(artifact.path)
    missing = [str(file) for file in artifact.files if not file.is_file()]
    if missing:
        raise ArtifactError(
            "Files of the artifact are missing.",
            received=", ".join(missing),
            expected="the files that were exported",
        )


def check_name(name: str) -> None:
    """Raises if a model cannot be called so in a path and in a URL."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            "Bad name of a model.",
            received=repr(name),
            expected="letters, digits and dashes, at most 63",
        )


def files_of(artifact: Artifact) -> list[Path]:
    """Returns the files of an artifact, and its manifest, in order."""
    note = manifest_path(artifact.path)
    return sorted({*artifact.files, *([note] if note.is_file() else [])})


def copy(artifact: Artifact, target: Path) -> None:
    """Copies a directory's files and its manifest to `target`; one file without it.

    A manifest beside a file holds the file's name, which need not be that of the copy.
    """
    check_free(target)
    whole = artifact.path.is_dir()
    for file in files_of(artifact) if whole else [artifact.path]:
        to = target / file.relative_to(artifact.path) if whole else target
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)


def inference_service(name: str, model_format: str, uri: str, *settings: str) -> str:
    """Returns the description of a service of KServe.

    Args:
        name: of the service.
        model_format: what KServe calls the format.
        uri: where the model is, as YAML has it.
        *settings: other lines about the model.
    """
    lines = [f"      {line}\n" for line in (*settings, f"storageUri: {uri}")]
    return f"""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    model:
      modelFormat:
        name: {model_format}
{"".join(lines)}"""
