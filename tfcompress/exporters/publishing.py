"""Atomic publication: a reader sees a whole artifact, or none."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from tfcompress.core.errors import ExportError

# What file systems take.
_LONGEST, _LONGEST_PART = 2048, 255


@contextlib.contextmanager
def staged(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields a hidden path beside `target`; on success it becomes `target`.

    The staged path is in the same directory, because only a rename inside one file
    system is atomic. It ends as `target` does: some writers look at the suffix.
    Whatever goes wrong, the staged path and any directory made for it are removed
    again.

    Args:
        target: where the file or directory is to appear.
        overwrite: whether an existing *file* may be replaced.

    Raises:
        ExportError: if `target` exists or the disk refuses to take it.
    """
    check_free(target, overwrite)
    created: list[Path] = []
    stage = target.parent / f".tmp-{target.name}-{uuid.uuid4().hex[:12]}{target.suffix}"
    try:
        created = _make_parents(target.parent)
        yield stage
        _flush(stage)
        check_free(target, overwrite)
        if stage.is_dir():
            os.rename(stage, target)
        else:
            os.replace(stage, target)
        # The directory's own entry; what else is in it is not ours.
        _sync(target.parent)
    except BaseException as error:
        _remove(stage)
        for directory in reversed(created):
            with contextlib.suppress(OSError):
                directory.rmdir()
        if isinstance(error, OSError):
            raise disk_error(target, error) from error
        raise


def check_writable(target: Path) -> None:
    """Raises `ExportError` unless a file can be written; leaves all as it was.

    When to use: before work whose result is to be written there.
    """
    try:
        with staged(target, overwrite=True) as stage:
            stage.touch()
            raise _Tried
    except _Tried:
        pass


class _Tried(Exception):
    """Ends an attempt, so that nothing of it stays."""


def check_free(target: Path, overwrite: bool = False) -> None:
    """Raises `ExportError` if `target` exists and may not be replaced."""
    if not os.path.lexists(target) or (overwrite and not target.is_dir()):
        return
    fix = (
        "choose another path, or pass `overwrite=True`"
        if not target.is_dir()
        else "choose another path; a directory is never replaced"
    )
    raise ExportError(
        "The output exists already; nothing was written.",
        received=str(target),
        expected="a path where nothing exists yet",
        fix=fix,
    )


def is_inside(name: str) -> bool:
    """Returns whether a path in a file's own directory leads nowhere else.

    >>> is_inside("variables/variables.index"), is_inside("../model"), is_inside("C:x")
    (True, False, False)
    """
    windows = PureWindowsPath(name)
    return (
        not windows.drive
        and not windows.root
        and "\\" not in name
        and name.isprintable()
        and len(name) <= _LONGEST
        and all(
            part not in ("", ".", "..") and len(part.encode()) <= _LONGEST_PART
            for part in name.split("/")
        )
    )


def disk_error(target: Path, error: OSError) -> ExportError:
    """Returns the `ExportError` for a disk that refused to take the artifact."""
    return ExportError(
        "The artifact could not be written; nothing was left behind.",
        received=f"{target}: {error.strerror or error}",
        expected="a path in a writable directory with room for the artifact",
        fix="choose another directory, free some space or change the permissions",
    )


def _make_parents(directory: Path) -> list[Path]:
    missing = []
    while not os.path.lexists(directory):
        missing.append(directory)
        directory = directory.parent
    created = []
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        created.append(path)
    return created


def _flush(path: Path) -> None:
    """Forces a file, or every file and directory of a tree, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            _flush(child)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
