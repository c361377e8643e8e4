"""Files that belong to a running process, and go with it however it ends.

A process marks what it is at work on by a lock file, which the system unlocks when the
process is gone. Whoever comes next to the same directory removes what nobody holds. A
process number would not do: two containers are both process 1.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where orphans stay
    fcntl = None  # type: ignore[assignment]

_PREFIX = "tfcompress-"
_LOCK = ".lock"
_TOKEN_LETTERS = 16
# So often a directory is made again that others, who failed, took away.
_ATTEMPTS = 20


@contextlib.contextmanager
def owned_name(directory: Path, before: str = "") -> Iterator[str]:
    """Yields a name in `directory` that is free; what bears it goes at the end.

    When to use: for anything half-made. Whatever begins with the name is removed when
    the block is left, by whichever way: an error, Ctrl-C, SIGTERM; after SIGKILL, by
    the next call for the same directory.

    Args:
        directory: where; it must exist, or vanish at most for a moment.
        before: what the name begins with, "." for a hidden one.
    """
    remove_orphans(directory, before)
    with ended_by_sigterm():
        name, lock = _claim(directory, before)
        try:
            yield name
        finally:
            _remove(directory, name)
            os.close(lock)


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Yields the path of an empty directory for temporary files."""
    parent = Path(tempfile.gettempdir())
    with owned_name(parent) as name:
        path = parent / name
        path.mkdir(mode=0o700)
        yield str(path)


def scratch_of_the_process() -> tuple[str, Callable[[], None]]:
    """Returns a directory for temporary files, and what removes it.

    When to use: for what lives as long as an object, not as a block.
    """
    parent = Path(tempfile.gettempdir())
    remove_orphans(parent)
    name, lock = _claim(parent, "")
    owner, path = os.getpid(), parent / name
    path.mkdir(mode=0o700)

    def remove() -> None:
        if os.getpid() == owner:
            _remove(parent, name)
        os.close(lock)

    return str(path), remove


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process is inside a block for the same path.

    The file stays: whoever removed it would let two in at once.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def remove_orphans(directory: Path, before: str = "") -> None:
    """Removes what processes left in `directory` that are gone."""
    if fcntl is None:
        return
    start = before + _PREFIX
    try:
        with os.scandir(directory) as entries:
            locks = [
                e.name
                for e in entries
                if e.name.startswith(start)
                and e.name.endswith(_LOCK)
                and len(e.name) == len(start) + _TOKEN_LETTERS + len(_LOCK)
            ]
    except OSError:
        return
    for name in locks:
        with contextlib.suppress(OSError):
            lock = os.open(directory / name, os.O_RDWR | os.O_NOFOLLOW)
            try:
                # In a directory of many users, only one's own.
                if os.fstat(lock).st_uid == os.getuid() and _take(lock):
                    _remove(directory, name.removesuffix(_LOCK))
            finally:
                os.close(lock)


def _claim(directory: Path, before: str) -> tuple[str, int]:
    """Returns a new name and its open, locked lock file."""
    error: OSError | None = None
    for _ in range(_ATTEMPTS):
        name = f"{before}{_PREFIX}{secrets.token_hex(_TOKEN_LETTERS // 2)}"
        path = directory / (name + _LOCK)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError as missing:
            # Another writer made the directory, failed, and took it away again.
            error = missing
            directory.mkdir(parents=True, exist_ok=True)
            continue
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return name, lock
        # Taken for an orphan in the moment before it was locked.
        os.close(lock)
    raise error or FileNotFoundError(2, "It vanishes again and again", str(directory))


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by a process that runs, or no locks here
        return False
    return True


def _remove(directory: Path, name: str) -> None:
    """Removes all that bears a name; the lock at last, so that nothing is forgotten."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        paths = [Path(e.path) for e in entries if e.name.startswith(name)]
        for path in sorted(paths, key=lambda path: path.name == name + _LOCK):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


# What to do before a signal ends the process, which then calls no `atexit`.
_ENDINGS: list[Callable[[], None]] = []


def at_the_end(call: Callable[[], None]) -> None:
    """Calls a function when the process ends, also by SIGTERM within our work."""
    atexit.register(call)
    _ENDINGS.append(call)


class _Terminated(BaseException):
    """SIGTERM has come; no `except Exception` keeps it."""


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the block first, as Ctrl-C does, and then the process.

    It changes nothing where the program handles SIGTERM itself, or in another thread
    than the main one, which alone may set handlers.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(*_: Any) -> None:
        # Once: a second signal ends the cleaning, too.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Terminated:
        for call in _ENDINGS:
            with contextlib.suppress(Exception):
                call()
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
