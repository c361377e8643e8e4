"""Atomic publication: a reader sees a whole artifact, or none."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from tfcompress.core.errors import ExportError
from tfcompress.core.ownership import ended_by_sigterm, owned_name

# What file systems take.
_LONGEST, LONGEST_PART = 2048, 255
_LONG_SUFFIX = 32
# A disk with less room, in bytes, is full.
_LITTLE = 1 << 16


@dataclass
class Stage:
    """A place beside a target, whose content becomes the target.

    Attributes:
        path: where to write, a file or a directory.
        target: where it appears; where it appeared, once the block is left.
    """

    path: Path
    target: Path


@contextlib.contextmanager
def staged(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields a hidden path beside `target`; on success it becomes `target`.

    Whatever goes wrong, the staged path and any directory made for it are removed
    again. Of several writers of one target, one succeeds.

    Args:
        target: where the file or directory is to appear.
        overwrite: whether an existing *file* may be replaced.

    Raises:
        ExportError: if `target` exists or the disk refuses to take it.
    """
    with staging(target, overwrite) as stage:
        yield stage.path


@contextlib.contextmanager
def staging(
    target: Path, overwrite: bool = False, another: Callable[[], Path] | None = None
) -> Iterator[Stage]:
    """Is `staged`, for a target that may be another one in the end.

    The staged path is in the same directory, because only a rename inside one file
    system is atomic. It ends as `target` does: some writers look at the suffix.

    Args:
        target: where the file or directory is to appear.
        overwrite: whether an existing *file* may be replaced.
        another: returns the next free target of the same directory, for when `target`
            was taken meanwhile.

    Raises:
        ExportError: if `target` exists or the disk refuses to take it.
    """
    check_free(target, overwrite)
    created: list[Path] = []
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= _LONG_SUFFIX else ""
    with ended_by_sigterm():
        try:
            created = _make_parents(target.parent)
            with owned_name(target.parent, ".tmp-") as name:
                stage = Stage(target.parent / f"{name}{suffix}", target)
                try:
                    yield stage
                except ExportError as error:
                    # Writers in C++ say anything of a full disk but its name.
                    if not _is_full(target.parent):
                        raise
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                _flush(stage.path)
                _appear(stage, overwrite, another)
            # The directory's own entry; what else is in it is not ours.
            _sync(target.parent)
        except BaseException as error:
            for directory in reversed(created):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            if isinstance(error, OSError):
                raise disk_error(target, error) from error
            raise


def folder_beside(file: Path) -> Path:
    """Returns the folder of what belongs to a file: "m_npu" of "m.tflite".

    That of a staged file is removed with it.
    """
    return file.with_name(f"{file.stem}_npu")


@contextlib.contextmanager
def appearing_beside() -> Iterator[Callable[[Path, Path], None]]:
    """Yields what renames a staged folder; it is withdrawn if the block fails then."""
    appeared: list[Path] = []

    def appear(stage: Path, target: Path) -> None:
        check_free(target)
        _flush(stage)
        _rename(stage, target, overwrite=False)
        appeared.append(target)

    try:
        yield appear
    except BaseException:
        for folder in appeared:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _appear(stage: Stage, overwrite: bool, another: Callable[[], Path] | None) -> None:
    """Renames the stage to its target, or where that was taken, to another one."""
    while True:
        try:
            check_free(stage.target, overwrite)
            _rename(stage.path, stage.target, overwrite)
        except (FileExistsError, ExportError) as error:
            found = stage.target if another is None else another()
            if found == stage.target:
                if isinstance(error, ExportError):
                    raise
                raise _taken(stage.target) from error
            stage.target = found
        else:
            return


def _rename(stage: Path, target: Path, overwrite: bool) -> None:
    """Renames a path. Raises `FileExistsError` if the target exists and must not."""
    if stage.is_dir():
        try:
            os.rename(stage, target)
        except OSError as error:
            # A full directory or a file in the way has several names.
            if os.path.lexists(target):
                raise FileExistsError(str(target)) from error
            raise
    elif overwrite:
        os.replace(stage, target)
    elif os.name == "nt":
        os.rename(stage, target)
    else:
        try:
            os.link(stage, target)
        except FileExistsError:
            raise
        except OSError:
            # A file system without links: an empty file claims the name.
            os.close(os.open(target, os.O_CREAT | os.O_EXCL))
            os.replace(stage, target)


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
    _check_name(target)
    if os.path.lexists(target) and not (overwrite and not target.is_dir()):
        raise _taken(target)


def _taken(target: Path) -> ExportError:
    fix = (
        "choose another path, or pass `overwrite=True`"
        if not target.is_dir()
        else "choose another path; a directory is never replaced"
    )
    return ExportError(
        "The output exists already; nothing was written.",
        received=str(target),
        expected="a path where nothing exists yet",
        fix=fix,
    )


def _check_name(target: Path) -> None:
    """Raises `ExportError` for a name that file systems do not take."""
    size = len(os.fsencode(target.name))
    if size > LONGEST_PART or "\0" in str(target):
        raise ExportError(
            "The name of the output is too long for a file system."
            if size > LONGEST_PART
            else "The path of the output holds a zero character.",
            received=f"{target.name[:40]!r} ... of {size} bytes",
            expected=f"a name of at most {LONGEST_PART} bytes, without zeros",
            fix="choose another name",
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
            part not in ("", ".", "..") and len(part.encode()) <= LONGEST_PART
            for part in name.split("/")
        )
    )


def disk_error(target: Path, error: OSError) -> ExportError:
    """Returns the `ExportError` for a disk that refused to take the artifact."""
    many = error.errno in (errno.EMFILE, errno.ENFILE)
    return ExportError(
        "The artifact could not be written; nothing was left behind.",
        received=f"{target}: {error.strerror or error}",
        expected="a process that may open more files"
        if many
        else "a path in a writable directory with room for the artifact",
        fix="close files that are open, or raise the limit, `ulimit -n`"
        if many
        else "choose another directory, free some space or change the permissions",
    )


def _is_full(directory: Path) -> bool:
    try:
        return shutil.disk_usage(directory).free < _LITTLE
    except OSError:
        return False


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
