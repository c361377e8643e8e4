"""With which learning rate a model was trained, where that is known."""

from __future__ import annotations

import keras

_NAME = "_tfcompress_trained_rate"


def trained_rate(model: keras.Model) -> float | None:
    """Returns the learning rate with which a model's training ended, or None.

    It is known of a model that was trained in this process or loaded with its
    optimizer, and of one that was made from such a model.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.25), "mse")
    >>> trained_rate(model)
    >>> _ = model.fit(np.ones((4, 1)), np.ones((4, 1)), verbose=0)
    >>> trained_rate(model)
    0.25
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and int(optimizer.iterations) > 0:
        return float(optimizer.learning_rate)
    return getattr(model, _NAME, None)


def note_trained_rate(made: keras.Model, model: keras.Model) -> None:
    """Lets a model that was made from another one tell that one's rate."""
    rate = trained_rate(model)
    if rate is not None:
        setattr(made, _NAME, rate)
