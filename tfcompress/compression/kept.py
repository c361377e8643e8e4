"""What a search keeps on disk, and reads only if it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tfcompress.core.ownership import owned_name
from tfcompress.exporters.manifest_file import sha256_of
from tfcompress.exporters.publishing import staged


def write_kept(path: Path, content: Any) -> None:
    """Writes JSON with its checksum, in one step.

    Raises:
        ExportError: if the disk refuses.
    """
    text = json.dumps(content, sort_keys=True)
    with staged(path, overwrite=True) as stage:
        stage.write_text(json.dumps({"sha256": _sha256(text.encode()), "is": content}))


def read_kept(path: Path) -> Any:
    """Returns what `write_kept` wrote; None if nothing is there, or it is damaged."""
    try:
        stored = json.loads(path.read_bytes())
        content = stored["is"]
        text = json.dumps(content, sort_keys=True)
        return content if stored["sha256"] == _sha256(text.encode()) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def sums_of(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of all files in a directory, by their paths in it.

    Manifests are left out, in which later verifications are recorded.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [file for file in files if not file.name.endswith("manifest.json")]
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def put_in_place(building: Path, folder: Path) -> None:
    """Renames a directory; one that is there already, and is damaged, goes."""
    try:
        os.rename(building, folder)
    except OSError:
        with owned_name(folder.parent, ".") as name:
            aside = folder.parent / name
            try:
                os.rename(folder, aside)
                os.rename(building, folder)
            except FileNotFoundError:
                return  # somebody else was faster
            except OSError:
                if not folder.exists():
                    raise
            finally:
                shutil.rmtree(aside, ignore_errors=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
