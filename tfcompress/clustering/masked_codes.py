"""Shared values in kernels that are pruned: what a step does only when masks change."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.core.callback import Occasional


class MaskedCodes:
    """Codes of pruned kernels: they hold the zeros of masks, and follow their changes.

    Codes that belong to no entry expand to zeros. So weights are multiplied with masks,
    and looked through for zeros, only in the steps in which masks have changed.

    Args:
        codebooks: the codebooks; those of which something else makes zeros, such as a
            penalty, are left alone.
    """

    def __init__(self, codebooks: list[Any]):
        self._codebooks = codebooks
        # How many changes of masks the weights show, and the codes.
        self._shown, self._followed = _number(-1), _number(-2)
        self._showing = Occasional(self._show)
        self._following = Occasional(self._follow)

    def follow(self) -> None:
        """Takes weights out of clusters that masks set to zero in the last step."""
        if self._pruned():
            self._following.run_when(ops.not_equal(self._shown, self._followed))

    def show(self) -> None:
        """Sets weights to zero whose masks have changed in this step."""
        if self._pruned():
            self._showing.run_when(ops.not_equal(self._changes(), self._shown))

    def _follow(self) -> None:
        for kernel in self._pruned():
            kernel.take_zeros_out()
        self._followed.assign(self._shown)

    def _show(self) -> None:
        for kernel in self._pruned():
            kernel.apply_masks()
        self._shown.assign(self._changes())

    def _changes(self) -> Any:
        masks = [mask for kernel in self._pruned() for mask in kernel.masks]
        first, *others = (ops.convert_to_tensor(mask.changes) for mask in masks)
        return sum(others, first)

    def _pruned(self) -> list[Any]:
        books = (book for book in self._codebooks if book.has_masks_alone)
        return [kernel for book in books for kernel in book.kernels if kernel.masks]


def _number(value: int) -> keras.Variable:
    return keras.Variable(value, trainable=False, dtype="int32")
