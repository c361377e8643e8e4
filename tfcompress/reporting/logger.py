"""CompressionLogger: how far compression has come, epoch by epoch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.core.arguments import integer
from tfcompress.core.callback import list_of_the_fit
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import walk
from tfcompress.distillation.distiller import Distiller
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.reporting.subjects import kernels

# More values than that are no codebook, and take long to count.
_CODEBOOK = 256
_SAMPLE = 4 * _CODEBOOK


class CompressionLogger(keras.callbacks.Callback):
    """Adds what compression has done to the logs of each epoch.

    When to use: to watch it in TensorBoard, in a CSV file or in the history that `fit`
    returns, and from there in `report(history=...)`. Put it in front of `TensorBoard`
    and `CSVLogger` in the list of callbacks: they log what they find.

    The logs get, for each kernel, `sparsity/<kernel>`, the share of zeros, and, where
    there are at most 256, `values/<kernel>`, how many distinct values other than zero;
    for each range of quantization, once data has set it, `low/<layer>` and
    `high/<layer>`; and `sparsity`, the share of zeros in all kernels together, which is
    the only one that Keras' progress line shows. In a `Distiller` they are those of the
    student.

    Args:
        every: of how many epochs one is logged with these figures; in all others the
            last figures are repeated, since Keras wants each figure in each epoch.

    Raises:
        InvalidArgumentError: if `every` is no positive whole number.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0,
    ...                     callbacks=[CompressionLogger()])
    >>> history.history["sparsity"]
    [0.0]
    """

    def __init__(self, every: int = 1):
        super().__init__()
        self.every = integer(
            every, "`every` must be a positive number of epochs.", low=1
        )
        self._last: dict[str, float] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the figures of another fit; keeps layers off the progress line."""
        self._last = {}
        found = list_of_the_fit()
        if found is None:
            return
        for place, other in enumerate(found.callbacks):
            if type(other) is keras.callbacks.ProgbarLogger:
                found.callbacks[place] = line = _ProgressLine(self)
                line.set_params(found.params)
                line.set_model(self.model)
                line.on_train_begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the figures to `logs`, which the next callback gets."""
        if not self._last or (epoch + 1) % self.every == 0:
            model = self.model
            model = model.student if isinstance(model, Distiller) else model
            self._last = {**_of_kernels(model), **_of_ranges(model)}
        if logs is not None:
            logs.update(self._last)


class _ProgressLine(keras.callbacks.ProgbarLogger):
    """Keras' progress line, without the figures of single layers.

    It stands in the list of one fit, where Keras has put its own.
    """

    def __init__(self, logger: CompressionLogger):
        super().__init__()
        self._logger = logger

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prints what is of the whole model."""
        hidden = {name for name in self._logger._last if name != "sparsity"}
        shown = {n: value for n, value in (logs or {}).items() if n not in hidden}
        super().on_epoch_end(epoch, shown)


def _of_kernels(model: keras.Model) -> dict[str, float]:
    found: dict[str, float] = {}
    zeros = total = 0
    for kernel in kernels(model):
        count = int(np.count_nonzero(kernel.values == 0))
        zeros, total = zeros + count, total + kernel.values.size
        found[f"sparsity/{kernel.name}"] = count / kernel.values.size
        if (values := _distinct(kernel.values)) is not None:
            found[f"values/{kernel.name}"] = float(values)
    return {"sparsity": zeros / total, **found} if total else found


def _distinct(values: np.ndarray) -> int | None:
    """Returns how many distinct values there are but zero; None if they are many."""
    flat = values.reshape(-1)
    if len(np.unique(flat[:_SAMPLE])) > _CODEBOOK + 1:
        return None
    distinct = np.unique(flat)
    count = len(distinct) - int(np.any(distinct == 0))
    # Of a kernel with fewer weights than that, each may have its own value.
    return count if count <= _CODEBOOK and count < flat.size else None


def _of_ranges(model: keras.Model) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, layer in walk(model):
        if isinstance(layer, FakeQuantize):
            try:
                low, high = layer.learned_range()
            except InvalidArgumentError:  # no data has been through it yet
                continue
            found[f"low/{path}"], found[f"high/{path}"] = low, high
    return found
