"""The index of a checkpoint: which tensor begins where in which shard.

TensorFlow's own readers say what a tensor holds, and not where it lies. The index is
a sorted table of LevelDB: blocks of entries that share the beginnings of their keys, a
block of blocks, and a footer that says where that one is.

Source: `tensorflow/core/lib/io/format.cc` and `tensor_bundle.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_PLAIN = 0
_BITS = 63
# The length of the key of what is first in the table, and no tensor.
_HEADER = 0


def entries_of(path: Path) -> list[bytes]:
    """Returns the `BundleEntryProto` of each tensor.

    Raises:
        ValueError: if it is no such index, or one that is compressed.
    """
    content = path.read_bytes()
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError(f"{path} is no index of a checkpoint")
    *_, start, size, _ = _numbers(footer, 4)
    entries: list[bytes] = []
    last = 0
    for _, handle in _rows(content, start, size):
        start, size, _ = _numbers(handle, 2)
        if start < last:
            raise ValueError("blocks of the index lie over each other")
        last = start + size
        rows = _rows(content, start, size)
        entries += [value for key_size, value in rows if key_size > _HEADER]
    return entries


def _rows(content: bytes, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yields the values of a block, and how long their keys are."""
    if content[start + size] != _PLAIN:
        raise ValueError("the index is compressed")
    block = content[start : start + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    rows, place = block[: len(block) - 4 * (restarts + 1)], 0
    while place < len(rows):
        # A key is the beginning of the last one, and what is its own.
        shared, own, length, place = _numbers(rows, 3, place)
        place += own + length
        yield shared + own, rows[place - length : place]


def _numbers(data: bytes, count: int, place: int = 0) -> list[int]:
    """Returns numbers of seven bits a byte, the lowest first, and what follows them."""
    found = []
    for _ in range(count):
        value = shift = 0
        while data[place] > 127 and shift < _BITS:
            value |= (data[place] & 127) << shift
            place, shift = place + 1, shift + 7
        found.append(value | data[place] << shift)
        place += 1
    return [*found, place]
