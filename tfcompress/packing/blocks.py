"""A block of a file as few bytes: weights by an entropy coder, the rest by Brotli."""

from __future__ import annotations

import dataclasses
import lzma

import numpy as np

from tfcompress.packing import sparse
from tfcompress.packing.stream import Damaged, Reader, Writer

_PLANES, _CODED, _MASKED = 0, 1, 2
_MOST_VALUES = 256
# Positions are worth numbers of their own only where one value prevails.
_PREVAILING = 0.5
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


def encode(data: bytes, spans: list[Span]) -> bytes:
    """Returns `data` in fewer bytes; `spans` are arrays in it, in order, apart."""
    writer = Writer()
    writer.number(len(spans))
    place = 0
    for span in spans:
        for number in (span.start - place, span.width, span.rows, span.columns):
            writer.number(number)
        writer.rest += data[place : span.start]
        _encode_span(writer, data[span.start : span.end], span)
        place = span.end
    writer.rest += data[place:]
    body = _compress(bytes(writer.numbers + writer.rest))
    head = Writer()
    for number in (len(writer.numbers), len(writer.rest), len(body)):
        head.number(number)
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


def _encode_span(writer: Writer, data: bytes, span: Span) -> None:
    entries = np.frombuffer(data, f"<u{span.width}")
    values, places, counts = np.unique(entries, return_inverse=True, return_counts=True)
    common = int(np.argmax(counts)) if len(values) else 0
    prevails = bool(len(values)) and counts[common] >= _PREVAILING * len(entries)
    if len(values) > _MOST_VALUES and not prevails:
        writer.number(_PLANES)
        writer.rest += _planes(entries)
        return
    mask = np.ones(len(entries), bool)
    if prevails:
        mask = places != common
    bound = _entropy(counts) / 8 + (span.width + 2) * len(values)
    if not prevails and bound >= len(_compress(_planes(entries))):
        writer.number(_PLANES)
        writer.rest += _planes(entries)
        return
    writer.number(_MASKED if len(values) > _MOST_VALUES else _CODED)
    writer.number(int(prevails))
    if prevails:
        writer.number(int(values[common]))
        _encode_positions(writer, mask.reshape(span.rows, span.columns))
    if len(values) > _MOST_VALUES:
        writer.rest += _planes(entries[mask])
        return
    # Steps from value to value are smaller than values.
    codes = places[mask]
    if prevails:
        values = np.delete(values, common)
        codes = codes - (codes > common)
    writer.number(len(values))
    for before, value in zip([0, *values[:-1].tolist()], values.tolist()):
        writer.number(value - before)
    writer.symbols(codes, len(values))


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
    values = np.zeros(reader.number(_MOST_VALUES), kind)
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
