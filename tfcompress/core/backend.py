"""The engine under Keras: what works on TensorFlow only says so before it begins."""

from __future__ import annotations

import keras

from tfcompress.core.errors import InvalidArgumentError


def require_tensorflow(what: str) -> None:
    """Refuses what is built on TensorFlow where Keras runs on another backend.

    Args:
        what: what was asked for: "export a model", "use PruneWeights in fit".

    Raises:
        InvalidArgumentError: if Keras' backend is not TensorFlow.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise InvalidArgumentError(
            f"Cannot {what} on this backend of Keras.",
            received=f"backend {backend!r}",
            expected="'tensorflow'",
            fix="set the environment variable KERAS_BACKEND to tensorflow before Keras "
            "is imported. A model that was trained on another backend can be saved as "
            "a .keras file and loaded there",
        )
