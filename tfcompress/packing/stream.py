"""Numbers in as few bytes as their size needs, and range-coded symbols.

Everything a reader takes from an archive is checked here against what is left of it: an
archive may be damaged, or made to do damage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Damaged(Exception):
    """The bytes are not what a writer would have written."""


class Writer:
    """Collects numbers, bytes for a general compressor, and range-coded symbols."""

    def __init__(self) -> None:
        import constriction

        self.numbers = bytearray()
        self.rest = bytearray()
        self._encoder = constriction.stream.queue.RangeEncoder()

    def number(self, value: int) -> None:
        """Writes a whole number that is not negative, seven bits a byte."""
        while value > 127:
            self.numbers.append(value & 127 | 128)
            value >>= 7
        self.numbers.append(value)

    def symbols(self, symbols: np.ndarray, size: int) -> None:
        """Writes whole numbers from 0 to `size - 1`, and how often each occurs."""
        counts = np.bincount(symbols, minlength=size)
        for count in counts:
            self.number(int(count))
        used = counts > 0
        if np.count_nonzero(used) > 1:
            order = (np.cumsum(used) - 1).astype("int32")[symbols]
            self._encoder.encode(order, _categorical(counts[used]))

    def chances(self, bits: np.ndarray, chance: float) -> None:
        """Writes bits of which each is 1 with this probability."""
        if len(bits):
            self._encoder.encode(bits.astype("int32"), _pair(chance))

    def coded(self) -> bytes:
        """Returns what the range coder made."""
        return self._encoder.get_compressed().astype("<u4").tobytes()


class Reader:
    """Reads what a `Writer` wrote."""

    def __init__(self, numbers: bytes, rest: bytes, coded: bytes):
        import constriction

        if len(coded) % 4:
            raise Damaged("the coded symbols end in the middle of a word")
        self._numbers, self.place = numbers, 0  # where the next number is
        self._rest, self._taken = memoryview(rest), 0
        words = np.frombuffer(coded, "<u4").astype("uint32")
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def number(self, most: int) -> int:
        """Returns the next number, which is at most `most`."""
        value = shift = 0
        while True:
            if self.place >= len(self._numbers) or shift > 63:
                raise Damaged("a number is missing")
            byte = self._numbers[self.place]
            self.place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if value > most:
            raise Damaged(f"a number is {value}, more than {most}")
        return value

    def rest(self, size: int) -> bytes:
        """Returns the next bytes of the part for the general compressor."""
        if size > len(self._rest) - self._taken:
            raise Damaged("bytes are missing")
        self._taken += size
        return bytes(self._rest[self._taken - size : self._taken])

    def symbols(self, total: int, size: int) -> np.ndarray:
        """Returns the next `total` symbols from 0 to `size - 1`."""
        counts = np.array([self.number(total) for _ in range(size)], "int64")
        if counts.sum() != total:
            raise Damaged("symbols are not as many as they should be")
        used = np.flatnonzero(counts).astype("int32")
        if len(used) <= 1:
            return np.full(total, used[0] if len(used) else 0, "int32")
        model = _categorical(counts[used])
        return used[_guarded(lambda: self._decoder.decode(model, total))]

    def chances(self, total: int, chance: float) -> np.ndarray:
        """Returns the next bits of which each is 1 with this probability."""
        if not total:
            return np.zeros(0, bool)
        model = _pair(chance)
        return _guarded(lambda: self._decoder.decode(model, total)).astype(bool)

    def finish(self) -> None:
        """Raises `Damaged` if something is left."""
        if self.place != len(self._numbers) or self._taken != len(self._rest):
            raise Damaged("there is more than was written")


def _categorical(counts: np.ndarray) -> Any:
    import constriction

    return constriction.stream.model.Categorical(
        counts.astype("float64") / counts.sum(), perfect=False
    )


def _pair(chance: float) -> Any:
    import constriction

    return constriction.stream.model.Categorical(
        np.array([1 - chance, chance]), perfect=False
    )


def _guarded(decode: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return decode()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        # Words that no encoder makes end in a panic, which is no Exception.
        raise Damaged("the coded symbols are no such symbols") from error
