"""pack and unpack: an artifact as one small archive, and back, bit for bit.

The archive is a signature and frames: `kind, bytes before, bytes, CRC-32, payload`.
The first frame is the manifest (paths and sizes), then come the blocks of the files in
its order, and the last one is the SHA-256 of all that was packed. It is written and
read from the front to the back, a block at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tfcompress.core.arguments import integer, path_of
from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.core.workers import require_chief
from tfcompress.exporters.publishing import check_free, is_inside, staged
from tfcompress.packing import blocks
from tfcompress.packing.blocks import Span
from tfcompress.packing.spans import find_spans
from tfcompress.packing.stream import Damaged

SIGNATURE = b"\x89TFC"
VERSION = 1
_FRAME = struct.Struct("<BIII")
_MANIFEST, _BLOCK, _END = 1, 2, 0
# Bytes of a block before packing: what is in memory at once.
BLOCK = 1 << 26
_LARGEST_MANIFEST = 1 << 24
_LARGEST = 1 << 32


@dataclasses.dataclass(frozen=True)
class Packed:
    """An archive that `pack` wrote.

    Attributes:
        path: where it is; `None` if it was written to a stream.
        size: bytes of the archive.
        original_size: bytes of what was packed.
    """

    path: Path | None
    size: int
    original_size: int

    def __fspath__(self) -> str:
        return os.fspath(self.path or "")

    def __str__(self) -> str:
        ratio = self.original_size / self.size
        return f"{self.original_size:,} bytes packed into {self.size:,} ({ratio:.1f}x)"


def pack(
    artifact: Any,
    filepath: str | os.PathLike | IO[bytes],
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Packs an artifact into an archive for download or flash.

    When to use: on what `export` wrote, if it was pruned or clustered: positions of
    zeros and indices of shared values take about as many bits as their entropy, where
    gzip takes a quarter more. `unpack` gives the same bytes back; weights are not
    changed.

    Source: range coding (Martin, 1979) by the `constriction` library; everything but
    weights by Brotli (RFC 7932).

    Args:
        artifact: an `Artifact`, or the path of a file or directory: .tflite, .keras,
            a SavedModel. Anything else is packed too, only not as well.
        filepath: where to write, or a binary stream, which need not seek.
        overwrite: whether an existing file may be replaced.
        progress: called as `progress(done, total)` with bytes, array by array.

    Returns:
        A `Packed` with the sizes.

    Raises:
        ArtifactError: if there is nothing at `artifact`, or links are in it.
        ExportError: if the output exists or the disk refuses.
        InvalidArgumentError: on a worker of a job that is not its chief.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "model.tflite").write_bytes(bytes(5000))
    >>> packed = pack(folder / "model.tflite", folder / "model.tfc")
    >>> packed.original_size, packed.size < 200
    (5000, True)
    >>> unpack(packed, folder / "back").read_bytes() == bytes(5000)
    True
    """
    require_chief("pack an artifact")
    if progress is not None and not callable(progress):
        raise InvalidArgumentError(
            "`progress` cannot be called.",
            received=f"{type(progress).__name__}: {str(progress)[:80]}",
            expected="a function of the bytes that are done and of all, or None",
        )
    source = path_of(artifact, "artifact")
    files, folders = _contents(source)
    if not isinstance(filepath, str | os.PathLike) and hasattr(filepath, "write"):
        sizes = _write(filepath, source, files, folders, progress)
        return Packed(None, *sizes)
    target = path_of(filepath, "filepath")
    with staged(target, overwrite) as stage, stage.open("wb") as output:
        sizes = _write(output, source, files, folders, progress)
    return Packed(target, *sizes)


def unpack(
    filepath: str | os.PathLike | IO[bytes],
    directory: str | os.PathLike,
    max_size: int = _LARGEST,
) -> Path:
    """Unpacks an archive of `pack`; what comes out is checked before it appears.

    Args:
        filepath: the archive, or a binary stream of it.
        directory: where the artifact is to appear, under the name it had.
        max_size: bytes that it may have unpacked; an archive that claims more is
            refused unread.

    Returns:
        The path of the file or directory.

    Raises:
        ArtifactError: if the archive is damaged, truncated, of another version, too
            large, or names a path outside of `directory`. Nothing is written then.
        ExportError: if the artifact exists already or the disk refuses.

    Example:

    ```python
    path = tfcompress.unpack("student.tfc", "models")
    runner = tfcompress.load(path)
    ```
    """
    integer(max_size, "`max_size` must be a number of bytes.", low=1)
    folder = path_of(directory, "directory")
    if not isinstance(filepath, str | os.PathLike) and hasattr(filepath, "read"):
        return _read(filepath, folder, max_size, "this stream")
    packed = path_of(filepath, "filepath")
    try:
        with packed.open("rb") as file:
            return _read(file, folder, max_size, str(packed))
    except FileNotFoundError:
        raise _damaged(packed, "there is no such file") from None


def _contents(source: Path) -> tuple[list[str], list[str]]:
    """Returns the paths of files and of empty folders below `source`."""
    if source.is_file():
        return [""], []
    if not source.is_dir():
        raise ArtifactError(
            "There is nothing to pack at this path.",
            received=str(source),
            expected="a file or directory written by `tfcompress.export`",
        )
    files, folders = [], []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_symlink():
            raise ArtifactError(
                "An artifact with links in it cannot be packed.",
                received=str(path),
                expected="files and directories",
                fix="replace the link by what it points to",
            )
        if path.is_file():
            files.append(name)
        elif not any(path.iterdir()):
            folders.append(name)
    return files, folders


def _write(
    output: IO[bytes],
    source: Path,
    files: list[str],
    folders: list[str],
    progress: Callable[[int, int], None] | None,
) -> tuple[int, int]:
    written = original = 0
    digest = hashlib.sha256()

    def frame(kind: int, before: int, payload: bytes) -> None:
        nonlocal written
        head = _FRAME.pack(kind, before, len(payload), zlib.crc32(payload))
        output.write(head + payload)
        written += len(head) + len(payload)

    output.write(SIGNATURE + bytes([VERSION]))
    written += len(SIGNATURE) + 1
    sizes = [(source / name).stat().st_size for name in files]
    entries = [[name, size] for name, size in zip(files, sizes)]
    name = source.absolute().name
    manifest = json.dumps([name, entries, folders], separators=(",", ":")).encode()
    digest.update(manifest)
    frame(_MANIFEST, len(manifest), blocks.encode(manifest, []))

    def tell(count: int) -> None:
        if progress is not None:
            progress(original + count, sum(sizes))

    for file, size in zip(files, sizes):
        path = source / file
        with path.open("rb") as content:
            for length, spans in _cut(size, find_spans(path)):
                data = content.read(length)
                digest.update(data)
                frame(_BLOCK, len(data), blocks.encode(data, spans, tell))
                original += length
    frame(_END, 0, digest.digest())
    return written, original


def _cut(size: int, spans: list[Span]) -> Iterator[tuple[int, list[Span]]]:
    """Yields the lengths of blocks and the arrays in each, counted from its start."""
    start = 0
    waiting = list(spans)
    while start < size:
        end = min(start + BLOCK, size)
        inside = []
        while waiting and waiting[0].start < end:
            span = waiting.pop(0)
            if span.end > end:
                row = span.width * span.columns
                rows = (end - span.start) // row
                if rows:
                    head = dataclasses.replace(span, rows=rows)
                    rest = dataclasses.replace(
                        span, start=head.end, rows=span.rows - rows
                    )
                    waiting.insert(0, rest)
                    inside.append(head)
                    end = head.end
                elif span.start > start:
                    waiting.insert(0, span)
                    end = span.start
                # A row that is larger than a block is no array to us.
                break
            inside.append(span)
        yield (
            end - start,
            [dataclasses.replace(span, start=span.start - start) for span in inside],
        )
        start = end


def _read(archive: IO[bytes], folder: Path, max_size: int, name: str) -> Path:
    try:
        return _unpacked(archive, folder, max_size)
    except Damaged as error:
        raise _damaged(name, error) from error


def _unpacked(archive: IO[bytes], folder: Path, max_size: int) -> Path:
    head = archive.read(len(SIGNATURE) + 1)
    if head[:-1] != SIGNATURE:
        raise Damaged("it does not begin like an archive of tfcompress")
    if head[-1] != VERSION:
        raise Damaged(f"it has version {head[-1]}, known is {VERSION}")
    kind, manifest = _next_frame(archive, _LARGEST_MANIFEST)
    if kind != _MANIFEST:
        raise Damaged("it has no manifest")
    digest = hashlib.sha256(manifest)
    root, entries, folders = _checked_manifest(manifest, max_size)
    target = folder / root
    check_free(target)
    # Checked whole before anything is made where the user will look.
    with tempfile.TemporaryFile() as spool:
        for _, size in entries:
            left = size
            while left:
                kind, data = _next_frame(archive, min(left, BLOCK))
                if kind != _BLOCK or not data:
                    raise Damaged("a block is missing")
                digest.update(data)
                left -= len(data)
                spool.write(data)
        kind, found = _next_frame(archive, 0)
        if kind != _END or found != digest.digest():
            raise Damaged("its checksum is not that of its content")
        if archive.read(1):
            raise Damaged("something follows its end")
        spool.seek(0)
        with staged(target) as stage:
            _place(spool, stage, entries, folders)
    return target


def _place(
    spool: IO[bytes], stage: Path, entries: list[tuple[str, int]], folders: list[str]
) -> None:
    if [name for name, _ in entries] != [""]:
        stage.mkdir()
    for name in folders:
        (stage / name).mkdir(parents=True)
    for name, size in entries:
        path = stage / name if name else stage
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while size:
                data = spool.read(min(size, 1 << 20))
                file.write(data)
                size -= len(data)


def _next_frame(archive: IO[bytes], most: int) -> tuple[int, bytes]:
    """Returns kind and content of a frame that holds at most `most` bytes."""
    head = archive.read(_FRAME.size)
    if len(head) != _FRAME.size:
        raise Damaged("it is truncated")
    kind, before, size, checksum = _FRAME.unpack(head)
    # No block becomes larger than it was, but for a few bytes.
    if before > most or size > before + before // 8 + 4096:
        raise Damaged(f"a frame claims {before} and {size} bytes")
    payload = archive.read(size)
    if len(payload) != size:
        raise Damaged("it is truncated")
    if zlib.crc32(payload) != checksum:
        raise Damaged("a block is not what its checksum says")
    return kind, payload if kind == _END else blocks.decode(payload, before)


def _checked_manifest(
    manifest: bytes, max_size: int
) -> tuple[str, list[tuple[str, int]], list[str]]:
    try:
        root, entries, folders = json.loads(manifest)
        entries = [(str(name), int(size)) for name, size in entries]
        folders = [str(name) for name in folders]
        root = str(root)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Damaged("its manifest cannot be read") from error
    single = len(entries) == 1 and entries[0][0] == "" and not folders
    names = [root] if single else [root, *(n for n, _ in entries), *folders]
    for name in names:
        if not is_inside(name) or (name is root and "/" in name):
            raise Damaged(f"it names the path {name!r}")
    inner = names[1:]
    taken = {str(parent) for name in inner for parent in PurePosixPath(name).parents}
    if len({n.casefold() for n in inner}) < len(inner) or taken & set(inner):
        raise Damaged("it names a path twice")
    total = sum(size for _, size in entries)
    if any(size < 0 for _, size in entries) or total > max_size:
        raise Damaged(f"it claims {total} bytes, more than max_size={max_size}")
    if total > shutil.disk_usage(tempfile.gettempdir()).free:
        raise Damaged(f"it claims {total} bytes, more than there is room for")
    return root, entries, folders


def _damaged(source: Any, why: Any) -> ArtifactError:
    return ArtifactError(
        "The archive cannot be unpacked; nothing was written.",
        received=f"{os.fspath(source)}: {why}",
        expected="a whole archive written by `tfcompress.pack`",
        fix="fetch or pack it again",
    )
