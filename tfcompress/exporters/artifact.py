"""What an export leaves on disk, and what can be said about it."""

import io
import os
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tfcompress.core.arguments import path_of


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of an artifact.

    Use it to see how an artifact wants to be called: `artifact.inputs[0].shape`.

    Args:
        name: the name in the artifact's signature.
        shape: one entry per axis; None where the artifact takes any size.
        dtype: "float32", "int8" ...
        scale: real value of one quantization step; None for unquantized tensors.
        zero_point: the integer that stands for 0.0; None for unquantized tensors.
        step: real value of one quantization step, also for a float output that is
            turned back from integers; None where nothing is quantized.

    Example:

    >>> TensorInfo("image", (1, 28, 28, 1), "int8", 0.5, -128).quantized
    True
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    step: float | None = None

    @property
    def quantized(self) -> bool:
        """Whether the tensor is stored as integers with a scale."""
        return self.scale is not None


@dataclass(frozen=True)
class OperatorCount:
    """How often an artifact uses one operator with one number format.

    Args:
        name: the operator, "CONV_2D".
        activations: dtypes of the tensors it reads and writes at run time.
        weights: dtypes of the constants it reads.
        count: number of such operators.
    """

    name: str
    activations: tuple[str, ...]
    weights: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class Artifact:
    """A model on disk, in one deployment format.

    `export` returns one; `Artifact.read` makes one from a path.

    Args:
        path: the file, or the directory of a SavedModel version.
        format: the export format, "tflite" or "saved_model".
        inputs: the tensors it takes, in the order a list of arrays is read.
        outputs: the tensors it gives.
        files: every file that belongs to it.
        operators: census of operators and dtypes; empty where the format has none.
        integer_coverage: share, from 0 to 1, of the work (multiply-accumulates, and
            the values that other operators make) whose run-time tensors are all
            integers; None where the format has no such notion.

    Example:

    ```python
    artifact = tfcompress.export(model, "student.tflite")
    print(artifact.size, artifact.gzip_size, artifact.integer_coverage)
    artifact = tfcompress.Artifact.read("savedmodels/student/1")
    ```
    """

    path: Path
    format: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    files: tuple[Path, ...]
    operators: tuple[OperatorCount, ...] = ()
    integer_coverage: float | None = None

    @classmethod
    def read(cls, filepath: Any) -> "Artifact":
        """Returns the artifact that is stored at `filepath`.

        Raises:
            ArtifactError: if nothing is there, or it is damaged.
        """
        from tfcompress.exporters.base import exporter_for

        where = path_of(filepath, "filepath")
        return exporter_for(where).inspect(where)

    @property
    def name(self) -> str:
        """What to call it in tables: its file name, or "student/1" for a version."""
        absolute = self.path.absolute()
        return "/".join(absolute.parts[-2:]) if self.path.is_dir() else absolute.name

    @cached_property
    def size(self) -> int:
        """Bytes on disk, all files together."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def gzip_size(self) -> int:
        """Bytes after `gzip -9`; a directory is put into a plain tar file first."""
        if len(self.files) == 1 and self.files[0] == self.path:
            return gzip_bytes(self.path.read_bytes())
        return gzip_bytes(_tar(self.path, self.files))

    def __str__(self) -> str:
        return f"{self.format} artifact {self.path} ({self.size:,} bytes)"

    def __fspath__(self) -> str:
        return os.fspath(self.path)


def gzip_bytes(data: bytes) -> int:
    """Returns the size in bytes of `data` after `gzip -9`.

    >>> gzip_bytes(bytes(100_000)) < 200
    True
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return len(compressor.compress(data)) + len(compressor.flush())


def _tar(root: Path, files: tuple[Path, ...]) -> bytes:
    # Names and contents only: owner and time must not change the size.
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(files):
            entry = tarfile.TarInfo(str(file.relative_to(root)))
            content = file.read_bytes()
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
