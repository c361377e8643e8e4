"""The versions of a model in its base directory, and the way back to an older one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.publishing import staging


def versions(base: str | os.PathLike) -> list[int]:
    """Returns the versions in a model's base directory, in ascending order.

    Use it to see what a server may load: only whole versions are counted.

    Args:
        base: the directory that holds the numbered version directories.

    Raises:
        ArtifactError: if there is no such directory.

    Example:

    ```python
    from tfcompress.serving import versions

    assert versions("savedmodels/student")[-1] >= 1
    ```
    """
    path = Path(base)
    if not path.is_dir():
        raise ArtifactError(
            "There is no model base directory at this path.",
            received=str(path),
            expected="a directory with version directories 1, 2, 3 ...",
        )
    found = [
        int(entry.name)
        for entry in path.iterdir()
        if entry.name.isascii() and entry.name.isdigit()
        if (entry / "saved_model.pb").is_file()
    ]
    return sorted(found)


def rollback(base: str | os.PathLike, version: int | None = None) -> Artifact:
    """Publishes an older version again, under the next number.

    Use it when the newest version is bad. A server that serves the latest version
    loads it, warms it up, and only then lets go of the bad one; no version that was
    served is ever changed, so logs stay true.

    Args:
        base: the directory that holds the numbered version directories.
        version: the version to go back to; None for the last but one.

    Returns:
        The artifact of the new version, whose files are equal to the old one's.

    Raises:
        InvalidArgumentError: if there is no such version.
        ArtifactError: if its files are not as they were exported.
        ExportError: if the disk refuses.

    Example:

    ```python
    from tfcompress.serving import rollback

    # rollback("savedmodels/student")       # or: rollback("savedmodels/student", 3)
    ```
    """
    found = versions(base)
    known = found[:-1] if version is None else found
    wanted = known[-1] if version is None and known else version
    if wanted not in known:
        raise InvalidArgumentError(
            "There is no such version to go back to.",
            received=repr(version),
            expected=f"one of {found}" if len(found) > 1 else "an older version",
        )
    source = Path(base) / str(wanted)
    check_files(source)

    def following() -> Path:
        # A number that was taken, even by something else, is not used again.
        names = [entry.name for entry in Path(base).iterdir() if entry.name.isdigit()]
        return Path(base) / str(max(map(int, names)) + 1)

    with staging(following(), another=following) as stage:
        shutil.copytree(source, stage.path)
    return Artifact.read(stage.target)
