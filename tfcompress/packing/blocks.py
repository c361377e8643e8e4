"""A block of a file as few bytes: weights by an entropy coder, the rest by Brotli."""

from __future__ import annotations

import dataclasses
import functools
import lzma
from collections.abc import Callable

import numpy as np

from tfcompress.packing import sparse
from tfcompress.packing.ahead import ahead
from tfcompress.packing.entries import MOST_VALUES, Content, content_of
from tfcompress.packing.stream import Damaged, Reader, Writer

_PLANES, _CODED, _MASKED = 0, 1, 2
# The share of the entries, as a power of two, that the best compressor is tried on.
_PART, _SMALLEST_PART = 5, 4096
_BROTLI, _LZMA, _STORED = 0, 1, 2
# Above this Brotli's best effort takes longer than what it saves is worth.
_BROTLI_MOST = 1 << 22
_LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 24}]


@dataclasses.dataclass(frozen=True)
class Span:
    """Bytes of a file that are one array.

    Args:
        start: its first byte in the file (or block).
        width: bytes of an entry: 1, 2, 4 or 8.
        rows, columns: how many entries; a matrix whose rows belong to outputs, or
            inputs, helps to say where the zeros are.
    """

    start: int
    width: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.width * self.rows * self.columns

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclasses.dataclass(frozen=True)
class _Array:
    """What an array is made of, and whether its values are coded by their shares."""

    content: Content
    coded: bool


def encode(
    data: bytes, spans: list[Span], done: Callable[[int], None] = lambda count: None
) -> bytes:
    """Returns `data` in fewer bytes.

    Args:
        data: the bytes.
        spans: arrays in them, in order, apart.
        done: called with how many of the bytes have been encoded.
    """
    writer = Writer()
    writer.number(len(spans))
    place = 0
    arrays = ahead(functools.partial(_read, data), spans)
    for span, array in zip(spans, arrays):
        for number in (span.start - place, span.width, span.rows, span.columns):
            writer.number(number)
        writer.rest += data[place : span.start]
        _encode_span(writer, array, span)
        place = span.end
        done(place)
    writer.rest += data[place:]
    body = _compress(bytes(writer.numbers + writer.rest))
    head = Writer()
    for number in (len(writer.numbers), len(writer.rest), len(body)):
        head.number(number)
    done(len(data))
    return bytes(head.numbers) + body + writer.coded()


def decode(payload: bytes, size: int) -> bytes:
    """Returns the `size` bytes that `encode` was given.

    Raises:
        Damaged: if `payload` is not what `encode` returns for so many bytes.
    """
    head = Reader(payload[:32], b"", b"")
    # Each row and column may have a number, so there can be more of them than bytes.
    numbers, rest = head.number(16 * size + 4096), head.number(size)
    length = head.number(len(payload))
    start = head.place
    body = _decompress(payload[start : start + length], numbers + rest)
    reader = Reader(body[:numbers], body[numbers:], payload[start + length :])
    parts, left = [], size
    for _ in range(reader.number(size)):
        gap, width = reader.number(left), reader.number(8)
        if width not in (1, 2, 4, 8):
            raise Damaged(f"an entry has {width} bytes")
        span = Span(0, width, reader.number(left), reader.number(left))
        left -= gap + span.size
        if left < 0:
            raise Damaged("arrays are larger than the file")
        parts += [reader.rest(gap), _decode_span(reader, span)]
    parts.append(reader.rest(left))
    reader.finish()
    return b"".join(parts)


def _encode_span(writer: Writer, array: _Array, span: Span) -> None:
    content = array.content
    if not array.coded and content.mask is None:
        writer.number(_PLANES)
        writer.rest += _planes(content.others)
        return
    writer.number(_CODED if array.coded else _MASKED)
    writer.number(int(content.mask is not None))
    if content.common is not None and content.mask is not None:
        writer.number(content.common)
        _encode_positions(writer, content.mask.reshape(span.rows, span.columns))
    if content.values is None or content.codes is None:
        writer.rest += _planes(content.others)
        return
    # Steps from value to value are smaller than values.
    values = content.values.tolist()
    writer.number(len(values))
    for before, value in zip([0, *values[:-1]], values):
        writer.number(value - before)
    writer.symbols(content.codes, len(values))


def _read(data: bytes, span: Span) -> _Array:
    """Returns what an array is made of, and how it is best written."""
    kind, count = f"<u{span.width}", span.rows * span.columns
    entries = np.frombuffer(data, kind, count, span.start)
    content = content_of(entries)
    coded = content.values is not None
    if coded and content.mask is None:
        assert content.counts is not None
        bound = _entropy(content.counts) / 8 + (span.width + 2) * len(content.counts)
        coded = not _packs_better(entries, bound)
    return _Array(content, coded)


def _packs_better(entries: np.ndarray, bound: float) -> bool:
    """Returns whether a general compressor gets the entries to so many bytes or fewer.

    Its best effort takes a hundred times as long as a quick one, which finds the same
    repetitions. How much more it makes of them is asked of the first entries.
    """
    quick = len(_quick(_planes(entries)))
    first = _planes(entries[: max(len(entries) >> _PART, _SMALLEST_PART)])
    gain = len(_compress(first)) / len(_quick(first))
    if quick * min(gain, 1.0) > bound:
        return False
    return len(_compress(_planes(entries))) <= bound


def _quick(data: bytes) -> bytes:
    import brotli

    return brotli.compress(data, quality=5, lgwin=22)


def _decode_span(reader: Reader, span: Span) -> bytes:
    count, kind = span.rows * span.columns, f"<u{span.width}"
    method = reader.number(_MASKED)
    if method == _PLANES:
        return _from_planes(reader.rest(count * span.width), span.width).tobytes()
    entries = np.zeros(count, kind)
    mask = np.ones(count, bool)
    most = 2 ** (8 * span.width) - 1
    if reader.number(1):
        entries[:] = reader.number(most)
        mask = _decode_positions(reader, span)
    found = int(mask.sum())
    if method == _MASKED:
        planes = reader.rest(found * span.width)
        entries[mask] = _from_planes(planes, span.width)
        return entries.tobytes()
    values = np.zeros(reader.number(MOST_VALUES), kind)
    value = 0
    for position in range(len(values)):
        value += reader.number(most - value)
        values[position] = value
    codes = reader.symbols(found, len(values))
    if found:
        if not len(values):
            raise Damaged("an array has entries and no values")
        entries[mask] = values[codes]
    return entries.tobytes()


def _encode_positions(writer: Writer, mask: np.ndarray) -> None:
    a, b = sparse.densities(mask)
    flat = mask.reshape(-1)
    uneven = sparse.bits(mask, a, b) < _entropy(np.bincount(flat, minlength=2))
    writer.number(int(uneven))
    if not uneven:
        writer.symbols(flat.astype("int32"), 2)
        return
    for numbers in (a, b):
        low = int(numbers.min())
        writer.number(low + sparse.LIMIT)
        size = int(numbers.max()) - low + 1
        writer.number(size)
        writer.symbols(numbers - low, size)
    index = sparse.classes(a, b)
    for position, chance in enumerate(sparse.PROBABILITIES):
        writer.chances(flat[index == position], chance)


def _decode_positions(reader: Reader, span: Span) -> np.ndarray:
    count = span.rows * span.columns
    if not reader.number(1):
        return reader.symbols(count, 2).astype(bool)
    found = []
    for total in (span.rows, span.columns):
        low = reader.number(2 * sparse.LIMIT) - sparse.LIMIT
        found.append(reader.symbols(total, reader.number(2 * sparse.LIMIT + 1)) + low)
    index = sparse.classes(*found)
    mask = np.zeros(count, bool)
    for position, chance in enumerate(sparse.PROBABILITIES):
        here = index == position
        mask[here] = reader.chances(int(here.sum()), chance)
    return mask


def _planes(entries: np.ndarray) -> bytes:
    """Returns the first bytes of all entries, then their second bytes and so on."""
    octets = entries.view("u1").reshape(-1, entries.itemsize)
    return np.ascontiguousarray(octets.T).tobytes()


def _from_planes(data: bytes, width: int) -> np.ndarray:
    planes = np.frombuffer(data, "u1").reshape(width, -1)
    return np.ascontiguousarray(planes.T).view(f"<u{width}").reshape(-1)


def _compress(data: bytes) -> bytes:
    import brotli

    found = [bytes([_STORED]) + data]
    if len(data) <= _BROTLI_MOST:
        found.append(bytes([_BROTLI]) + brotli.compress(data, quality=11, lgwin=22))
    else:
        packed = lzma.compress(data, lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
        found.append(bytes([_LZMA]) + packed)
    return min(found, key=len)


def _decompress(data: bytes, size: int) -> bytes:
    """Returns the `size` bytes, never more whatever the data claim."""
    import brotli

    method, data = data[:1], data[1:]
    try:
        if method == bytes([_BROTLI]):
            engine = brotli.Decompressor()
            # At least what is asked for may come out at once; more is refused below.
            parts = [engine.process(data, output_buffer_limit=size + 1)]
            while not engine.is_finished() and not engine.can_accept_more_data():
                if sum(map(len, parts)) > size:
                    break
                parts.append(engine.process(b"", output_buffer_limit=size + 1))
            result = b"".join(parts)
        elif method == bytes([_LZMA]):
            engine = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
            result = engine.decompress(data, size + 1)
        elif method == bytes([_STORED]):
            result = data
        else:
            raise Damaged("an unknown compressor")
    except (brotli.error, lzma.LZMAError, EOFError) as error:
        raise Damaged("compressed bytes are no such bytes") from error
    if len(result) != size:
        raise Damaged(f"{len(result)} bytes instead of {size}")
    return result


def _entropy(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())
