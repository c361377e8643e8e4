"""OnceFinal: callbacks that choose a model wait until a technique is done."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np  # noqa: F401  (the docstring's example)

from tfcompress.core.callback import FitCallback
from tfcompress.core.errors import InvalidArgumentError


class OnceFinal(keras.callbacks.Callback):
    """Shows another callback only the epochs at whose end a technique is done.

    When to use: with callbacks that choose a model, `EarlyStopping` and
    `ModelCheckpoint(save_best_only=True)`. While zeros still grow, a model is the
    better the fewer it has, so they would choose one of before the end; inside this
    one they choose the best of those that are as they are asked for.

    Args:
        callback: the callback to hold back: its `on_epoch_end`, and its
            `on_train_batch_end` if it has one of its own.
        *techniques: callbacks of this library in the same fit, such as `PruneWeights`;
            all of them must be done.

    Raises:
        InvalidArgumentError: if these are no such callbacks.

    Example:

    >>> import tfcompress
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> model.compile("sgd", "mse")
    >>> prune = tfcompress.PruneWeights(tfcompress.PolynomialSparsity(0.0, 0.75, \
frequency=1))
    >>> stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    >>> x, y = np.ones((64, 8)), np.ones((64, 16))
    >>> _ = model.fit(x, y, epochs=4, verbose=0, callbacks=[prune, OnceFinal(stop, \
prune)])
    >>> float(np.mean(model.layers[0].kernel.numpy() == 0))
    0.75
    """

    def __new__(cls, callback: Any = None, *_: Any) -> OnceFinal:
        # Keras calls into Python after each batch where any callback asks for it.
        own = type(callback).on_train_batch_end if _is_callback(callback) else None
        batches = own not in (None, keras.callbacks.Callback.on_train_batch_end)
        return super().__new__(_OnceFinalOfBatches if batches else cls)

    def __init__(self, callback: keras.callbacks.Callback, *techniques: FitCallback):
        super().__init__()
        wrong = [t for t in techniques if not isinstance(t, FitCallback)]
        if not _is_callback(callback) or not techniques or wrong:
            raise InvalidArgumentError(
                "OnceFinal takes a callback, and the techniques it waits for.",
                received=f"{callback!r}, {techniques!r}",
                expected="a Keras callback, then PruneWeights(...) or others of fit",
                fix="OnceFinal(EarlyStopping(...), prune), with `prune` in the same "
                "list of callbacks",
            )
        self.callback, self.techniques = callback, techniques

    def set_params(self, params: Any) -> None:
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self.callback.set_model(model)

    def is_final(self) -> bool:
        """Returns whether all techniques are done."""
        return all(technique.is_final() for technique in self.techniques)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.is_final():
            self.callback.on_epoch_end(epoch, logs)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.callback.on_train_begin(logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        self.callback.on_train_end(logs)


class _OnceFinalOfBatches(OnceFinal):
    """Is `OnceFinal` for a callback that is also called after each batch."""

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.callback.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.is_final():
            self.callback.on_train_batch_end(batch, logs)


def _is_callback(value: Any) -> bool:
    return isinstance(value, keras.callbacks.Callback)
