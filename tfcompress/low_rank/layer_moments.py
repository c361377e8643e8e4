"""Means and covariances of what flows through layers, for `factorize`."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import keras
import numpy as np

from tfcompress.core.data import Inputs
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.recorder import InputRecorder
from tfcompress.core.samples import untouched
from tfcompress.layers.matrix import kernel_matrix, reason_against, rows


@dataclasses.dataclass
class Moments:
    """Of the rows that a layer's kernel, as a matrix, is multiplied with.

    Attributes:
        mean: of the rows; zero if the layer has no bias that could make up for it.
        covariance: about this mean: of the rows themselves for a convolution with a
            window, else of the rows times the kernel.
    """

    mean: np.ndarray
    covariance: np.ndarray


class _Sums:
    """Adds up rows and their products."""

    def __init__(self, layer: keras.Layer):
        self.layer = layer
        self.matrix = None if has_window(layer) else kernel_matrix(layer)
        self.count: int = 0
        self.rows: Any = 0.0
        self.products: Any = 0.0

    def add(self, inputs: Any) -> None:
        found = rows(self.layer, inputs).astype("float64")
        self.count += len(found)
        with np.errstate(all="ignore"):  # what is not finite is refused at the end
            self.rows = self.rows + found.sum(axis=0)
            seen = found if self.matrix is None else found @ self.matrix
            self.products = self.products + seen.T @ seen

    def moments(self) -> Moments:
        mean = self.rows / self.count
        if isinstance(self.layer, keras.layers.EinsumDense):
            mean = np.zeros_like(mean)  # its bias may have any of the output's axes
        shift = mean if self.matrix is None else mean @ self.matrix
        return Moments(mean, self.products / self.count - np.outer(shift, shift))


def has_window(layer: keras.Layer) -> bool:
    """Tells convolutions that look at more than one pixel."""
    return isinstance(layer, keras.layers.Conv2D) and max(layer.kernel_size) > 1


def layer_moments(
    model: keras.Model, layers: list[keras.Layer], data: Inputs, verbose: int = 0
) -> dict[int, Moments]:
    """Returns, by the layer's id, the moments of those that multiply rows.

    Args:
        model: is run once on all data.
        layers: some of its layers.
        data: typical inputs.
        verbose: 1 shows progress.
    """
    sums = [
        _Sums(layer)
        for layer in layers
        if hasattr(layer, "kernel") and reason_against(layer) is None
    ]
    with contextlib.ExitStack() as stack:
        for one in sums:
            stack.enter_context(InputRecorder(one.layer, one.add))
        total = sum(1 for _ in data) if verbose else None
        progress = keras.utils.Progbar(total, verbose=verbose)
        for batch in data:
            with untouched(model):
                model(batch, training=False)
            progress.add(1)
    for one in sums:
        if not np.all(np.isfinite(one.products)):
            raise InvalidArgumentError(
                f"The inputs of layer '{one.layer.path}' are not finite on the given "
                "data.",
                expected="data without NaN",
            )
    return {id(one.layer): one.moments() for one in sums if one.count}
