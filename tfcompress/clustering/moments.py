"""Moments of shared values, where checkpoints keep them: in the optimizer's own slots.

While values are shared, the model's optimizer leaves the kernels alone, and what it
keeps about each weight (its slots) lies idle. When it is saved, each weight's slots are
set to those of the value that the weight shares. A resumed run finds members that
agree, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops


class SlotWriter:
    """Stands in for `optimizer.save_own_variables` and calls `write` first."""

    def __init__(self, optimizer: Any, write: Any):
        self.optimizer, self.write, self.active = optimizer, write, True
        self.save = optimizer.save_own_variables
        optimizer.save_own_variables = self

    def __call__(self, store: Any) -> None:
        if self.active:
            self.write()
        self.save(store)

    def remove(self) -> None:
        """Gives the optimizer its own method back, once no other stands in for it."""
        self.active = False
        found = self.optimizer.save_own_variables
        while isinstance(found, SlotWriter) and not found.active:
            found = found.save
        del self.optimizer.save_own_variables
        if isinstance(found, SlotWriter):
            self.optimizer.save_own_variables = found


def calls_of(optimizer: Any) -> keras.Variable:
    """Returns how often an optimizer was called, with or without an update."""
    return next(v for v in optimizer.variables if v.name == "iteration")


def write_slots(original: Any, optimizer: Any, codebooks: list) -> None:
    """Sets the slots of all members to those of their entries.

    Args:
        original: the optimizer of the model, which is saved.
        optimizer: the one of the same kind that trains the entries.
        codebooks: whose entries and kernels.
    """
    for book, moment, members in _pairs(original, optimizer, codebooks):
        for kernel, slot in zip(book.kernels, members):
            if slot is not None:
                slot.assign(kernel.expand(ops.convert_to_tensor(moment)))


def read_slots(original: Any, optimizer: Any, codebooks: list) -> bool:
    """Undoes `write_slots`.

    Returns:
        Whether it could be; otherwise nothing is changed. Members of an entry may
        disagree, and some optimizers (Muon, Adafactor) keep something else about a
        matrix than about a vector of entries.
    """
    found = []
    for book, moment, members in _pairs(original, optimizer, codebooks):
        missing = any(slot is None for slot in members)
        values = None if missing else _agreed(book, members)
        if values is None:
            return False
        found.append((moment, values))
    for moment, values in found:
        moment.assign(values)
    return True


def _pairs(original: Any, optimizer: Any, codebooks: list) -> Iterator[tuple]:
    """Yields a codebook, a slot of its entries and those of its kernels like it."""
    entries = [book.entries for book in codebooks]
    kernels = [kernel.variable for book in codebooks for kernel in book.kernels]
    start = _prefix(entries[0])
    names = {
        slot.name.removeprefix(start)
        for slot in optimizer.variables
        if slot.name.startswith(start)
    }
    for name in sorted(names):
        moments = _slots(optimizer, entries, name)
        members = iter(_slots(original, kernels, name))
        for book, moment in zip(codebooks, moments):
            yield book, moment, [next(members) for _ in book.kernels]


def _slots(optimizer: Any, variables: list, name: str) -> list[keras.Variable | None]:
    """Returns what `optimizer` keeps under `name` about each of `variables`, if any.

    Variables of the same path are told apart by their order, which is that in which
    the optimizer was built.
    """
    free = list(optimizer.variables)
    found = []
    for variable in variables:
        wanted = _prefix(variable) + name, variable.shape
        slot = next((s for s in free if (s.name, s.shape) == wanted), None)
        free = [other for other in free if other is not slot]
        found.append(slot)
    return found


def _prefix(variable: keras.Variable) -> str:
    return variable.path.replace("/", "_") + "_"


def _agreed(book: Any, moments: list[keras.Variable]) -> np.ndarray | None:
    """Returns the moment of each entry, or `None` if not all members have the same."""
    sums, members = np.zeros(book.count), np.zeros(book.count)
    flat = [ops.convert_to_numpy(moment).reshape(-1) for moment in moments]
    codes = [ops.convert_to_numpy(kernel.codes) for kernel in book.kernels]
    for values, code in zip(flat, codes):
        # In double precision the mean of equal numbers is that number.
        sums += np.bincount(code, values.astype("float64"), book.count + 1)[1:]
        members += np.bincount(code, minlength=book.count + 1)[1:]
    means = (sums / np.maximum(members, 1)).astype("float32")
    for values, code in zip(flat, codes):
        if not np.array_equal(
            np.r_[np.float32(0), means][code], np.where(code, values, 0)
        ):
            return None
    return means
