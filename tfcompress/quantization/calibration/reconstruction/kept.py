"""Finished blocks on disk, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from tfcompress.core.errors import InvalidArgumentError, one_line
from tfcompress.core.ownership import owned_name


class KeptBlocks:
    """What was learned of each block, in a directory.

    The name of a file tells all that its content follows from, so a directory may be
    used for several models, and nothing is read that another run would not make.

    Args:
        directory: where; it is made. `None` keeps nothing.
        parts: what the results follow from: texts, numbers, arrays.
    """

    def __init__(self, directory: str | None, parts: Iterable[Any]):
        self._folder = None if directory is None else Path(directory)
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidArgumentError(
                "The directory for finished blocks cannot be made.",
                received=f"directory={directory!r}: {one_line(error)}",
                expected="a path that can be written to",
            ) from error
        sums = hashlib.sha256()
        for part in parts:
            array = np.asarray(part)
            sums.update(repr((array.shape, array.dtype.str)).encode())
            plain = array.dtype != object
            sums.update(array.tobytes() if plain else repr(array.tolist()).encode())
        self._name = sums.hexdigest()[:16]

    def read(self, number: int, variables: list[Any]) -> bool:
        """Gives variables what was kept of a block; returns whether it was there."""
        if self._folder is None:
            return False
        try:
            with np.load(self._path(number)) as file:
                arrays = [file[str(place)] for place in range(len(variables))]
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
            return False  # not there, or damaged
        shapes = [tuple(variable.shape) for variable in variables]
        if [array.shape for array in arrays] != shapes:
            return False
        for variable, array in zip(variables, arrays):
            variable.assign(array)
        return True

    def write(self, number: int, variables: list[Any]) -> None:
        """Keeps what variables hold, in one step."""
        if self._folder is None:
            return
        arrays = {
            str(place): ops.convert_to_numpy(variable)
            for place, variable in enumerate(variables)
        }
        try:
            with owned_name(self._folder, ".") as name:
                stage = self._folder / f"{name}.npz"
                np.savez(stage, **arrays)  # type: ignore[arg-type]
                os.replace(stage, self._path(number))
        except OSError as error:
            raise InvalidArgumentError(
                "A finished block cannot be kept.",
                received=f"directory={str(self._folder)!r}: {one_line(error)}",
                expected="a directory that can be written to, with some room",
            ) from error

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._name}-block-{number:03}.npz"
