"""What a teacher said, on disk: append batches, survive a kill, read by memory map.

A cache is a directory with one raw array file per output (`0.bin`, `1.bin`, ...) and
`cache.json`, which describes them: format version, names, dtype and shape of each,
the batches with the checksum of their input, fingerprint of the teacher, and after
the last batch the checksum of each file. `cache.json` is replaced in one step after
the arrays have reached the disk, so what it describes is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.core.arguments import path_of
from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.core.ownership import locked

VERSION = 2
HEADER, PART, LOCK = "cache.json", ".part", "cache.lock"
# Of a large input every n-th value is enough to tell it from another one, and the
# check is paid for in every step. n is odd, so that it does not stay in one column or
# channel: their numbers are mostly even.
_CHECKED_VALUES = 8192
_DTYPES = ("float16", "float32")


def fingerprint(*parts: Any) -> str:
    """Returns a hash of arrays and strings."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            array = np.ascontiguousarray(part)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def checksum_of_input(arrays: list[np.ndarray]) -> int:
    """Returns a checksum of one batch of inputs."""
    crc = 0
    for array in arrays:
        flat = np.ravel(array)
        flat = np.ascontiguousarray(flat[:: flat.size // _CHECKED_VALUES | 1])
        if flat.dtype == object:  # strings
            flat = np.frombuffer(b"\0".join(map(bytes, flat)), "uint8")
        crc = zlib.crc32(flat.tobytes(), zlib.crc32(str(array.shape).encode(), crc))
    return crc


class CacheFiles:
    """The files of one cache.

    Args:
        path: directory of the cache; made if it does not exist.
        identity: JSON-able facts that must be the same for the cache to be used:
            the teacher's fingerprint, which outputs, in which dtype.

    Raises:
        ArtifactError: if the directory holds something else, a cache of another
            teacher, or a damaged one. Nothing is deleted.
    """

    def __init__(self, path: str | os.PathLike, identity: dict[str, Any]):
        self.path = path_of(path, "path")
        self._header: dict[str, Any] = {
            "version": VERSION,
            "identity": identity,
            "complete": False,
            "arrays": [],
            "batches": [],
            "checksums": [],
        }
        self._identity = identity
        if (self.path / HEADER).exists():
            self._open(identity)
        elif self.path.exists() and not (self.path.is_dir() and self._is_empty()):
            raise ArtifactError(
                f"This {'directory' if self.path.is_dir() else 'file'} is not a "
                "teacher cache.",
                received=str(self.path),
                expected="a new path, an empty directory, or a cache made before",
            )
        else:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _cannot_write(self.path, error) from error

    def _is_empty(self) -> bool:
        ours = (LOCK, HEADER + PART)
        return all(entry.name in ours for entry in self.path.iterdir())

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Waits until no other process writes, and takes up what it wrote.

        The first thing on disk is the description, so that whatever a kill leaves is
        known for a part of a cache.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / LOCK))
            except OSError as error:
                raise _cannot_write(self.path, error) from error
            if (self.path / HEADER).exists():
                self._open(self._identity)
            else:
                self.commit()
            if not self.complete:
                self._cut()
            yield

    def _cut(self) -> None:
        """Removes what was written after the last commit by a process that is gone."""
        known = self._files()
        for file in self.path.glob("*.bin"):
            if file.stem.isdigit() and file not in known:
                file.unlink()
        samples = sum(size for size, _ in self.batches)
        for file, spec in zip(known, self._header["arrays"]):
            size = samples * math.prod(spec["shape"]) * np.dtype(spec["dtype"]).itemsize
            if file.exists() and file.stat().st_size > size:
                with file.open("r+b") as opened:
                    opened.truncate(size)

    @property
    def complete(self) -> bool:
        """Whether the teacher has seen every batch."""
        return self._header["complete"]

    @property
    def batches(self) -> list[list[int]]:
        """`[samples, checksum of the input]` of each batch."""
        return self._header["batches"]

    def append(self, arrays: list[np.ndarray], checksum: int) -> None:
        """Adds one batch; it counts after the next `commit`."""
        if not self._header["arrays"]:
            self._header["arrays"] = [
                {"dtype": str(a.dtype), "shape": list(a.shape[1:])} for a in arrays
            ]
        for i, (array, spec) in enumerate(zip(arrays, self._header["arrays"])):
            if list(array.shape[1:]) != spec["shape"]:
                raise InvalidArgumentError(
                    "The teacher's outputs change their shape from batch to batch.",
                    received=f"{array.shape[1:]} after {tuple(spec['shape'])}",
                    expected="one shape for all samples",
                    fix="pad all samples to one length",
                )
            try:
                with (self.path / f"{i}.bin").open("ab") as file:
                    file.write(np.ascontiguousarray(array).tobytes())
            except OSError as error:
                raise _cannot_write(self.path, error) from error
        self.batches.append([len(arrays[0]), checksum])

    def commit(self, complete: bool = False) -> None:
        """Makes everything appended so far survive a crash."""
        try:
            for file in self._files():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            if complete:
                self._header["complete"] = True
                self._header["checksums"] = [_checksum(f) for f in self._files()]
            part = self.path / (HEADER + PART)
            part.write_text(json.dumps(self._header), encoding="utf-8")
            part.replace(self.path / HEADER)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def open_arrays(self) -> list[np.ndarray]:
        """Returns the arrays, mapped from disk."""
        samples = sum(size for size, _ in self.batches)
        return [
            np.memmap(f, s["dtype"], "r", shape=(samples, *s["shape"]))
            for f, s in zip(self._files(), self._header["arrays"])
        ]

    def _files(self) -> list[Path]:
        return [self.path / f"{i}.bin" for i in range(len(self._header["arrays"]))]

    def _open(self, identity: dict[str, Any]) -> None:
        again = f"delete {self.path} or choose another path to run the teacher again"
        try:
            header = json.loads((self.path / HEADER).read_text(encoding="utf-8"))
            found = header["version"], dict(header["identity"])
            _check_header(header)
            self._header |= {name: header[name] for name in self._header}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(
                "The description of this teacher cache is damaged.",
                received=str(self.path / HEADER),
                expected="the file as it was written",
                fix=again,
            ) from error
        if found[0] != VERSION:
            raise ArtifactError(
                "This teacher cache has another format.",
                received=f"version {found[0]}",
                expected=f"version {VERSION}",
                fix=again,
            )
        for name, wanted in json.loads(json.dumps(identity)).items():
            if found[1].get(name) != wanted:
                raise ArtifactError(
                    f"This teacher cache was made for another {name}.",
                    received=f"{name} {found[1].get(name)} in {self.path}",
                    expected=f"{name} {wanted}",
                    fix=again,
                )
        self._check_files(again)

    def _check_files(self, again: str) -> None:
        samples = sum(size for size, _ in self.batches)
        for i, (file, spec) in enumerate(zip(self._files(), self._header["arrays"])):
            if file.is_symlink():
                raise ArtifactError(
                    "A file of this teacher cache is a link.",
                    received=str(file),
                    expected="files of its own, which may be cut and written to",
                    fix=again,
                )
            size = samples * math.prod(spec["shape"]) * np.dtype(spec["dtype"]).itemsize
            have = file.stat().st_size if file.exists() else 0
            # What is too much was written after the last commit.
            if have < size or (self.complete and have > size):
                raise ArtifactError(
                    "This teacher cache is cut short.",
                    received=f"{have} bytes in {file}",
                    expected=f"{size} bytes",
                    fix=again,
                )
            if self.complete and _checksum(file) != self._header["checksums"][i]:
                raise ArtifactError(
                    "This teacher cache is damaged: its checksum is wrong.",
                    received=str(file),
                    expected="the bytes that were written",
                    fix=again,
                )


def _check_header(header: dict[str, Any]) -> None:
    """Raises `ValueError` or `TypeError` if this is not what `commit` writes."""
    arrays, checksums = header["arrays"], header["checksums"]
    if not all(isinstance(x, list) for x in (arrays, checksums, header["batches"])):
        raise TypeError("what should be a list is none")
    sizes = [size for size, _ in header["batches"]]
    sizes += [size for spec in arrays for size in spec["shape"]]
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("a size is no whole number")
    if any(spec["dtype"] not in _DTYPES for spec in arrays):
        raise ValueError("an unknown dtype")
    if type(header["complete"]) is not bool:
        raise TypeError("`complete` is no boolean")
    if header["complete"] and not (arrays and len(arrays) == len(checksums)):
        raise ValueError("a checksum is missing")


def _checksum(file: Path) -> int:
    crc = 0
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 24):
            crc = zlib.crc32(chunk, crc)
    return crc


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"The teacher cache cannot be written ({error.strerror}).",
        received=str(path),
        expected="a writable directory with room for the teacher's outputs",
        fix="free some space or choose another path, and call cache_teacher again: "
        "it goes on after the last batch that was kept",
    )
