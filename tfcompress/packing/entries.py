"""What an array is made of: whether one value prevails, and which others there are."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfcompress.core.blocks import occurrences

MOST_VALUES = 256
# Positions are worth numbers of their own only where one value prevails.
_PREVAILING = 0.5
# Entries that are looked at before all are sorted.
_LOOKED_AT = 4096


@dataclasses.dataclass(frozen=True)
class Content:
    """The entries of an array.

    Attributes:
        common: the value that at least half of the entries have; None if none has.
        mask: where the others are; None if no value prevails.
        others: those entries, in order.
        values: what they are, each once, sorted; None if that is too many.
        codes: the index in `values` of each of the others.
        counts: how often each of the values occurs.
    """

    common: int | None
    mask: np.ndarray | None
    others: np.ndarray
    values: np.ndarray | None
    codes: np.ndarray | None
    counts: np.ndarray | None


def content_of(entries: np.ndarray) -> Content:
    """Returns what unsigned entries are made of."""
    common, mask, others = _prevailing(entries), None, entries
    if common is not None:
        mask = entries != common
        others = entries[mask]
    found = _distinct(others, MOST_VALUES - (common is not None))
    return Content(common, mask, others, *(found or (None, None, None)))


def _prevailing(entries: np.ndarray) -> int | None:
    """Returns the value of at least half of the entries, which is a median."""
    size = len(entries)
    if not size:
        return None
    middle = [(size - 1) // 2, size // 2]
    for value in np.partition(entries, middle)[middle]:
        if np.count_nonzero(entries == value) >= _PREVAILING * size:
            return int(value)
    return None


def _distinct(
    entries: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns the values, codes and counts; None if there are more values than `most`.

    What takes a sort is asked of a part first: floats mostly differ from each other.
    """
    if entries.itemsize == 1:
        counts = occurrences(entries, 256)
        values = np.flatnonzero(counts)
        if len(values) > most:
            return None
        places = np.zeros(len(counts), "uint8")
        places[values] = np.arange(len(values))
        return values.astype("uint8"), places[entries], counts[values]
    if len(np.unique(entries[:: len(entries) // _LOOKED_AT + 1])) > most:
        return None
    values, codes, counts = np.unique(entries, return_inverse=True, return_counts=True)
    if len(values) > most:
        return None
    return values, codes.astype("uint8"), counts
