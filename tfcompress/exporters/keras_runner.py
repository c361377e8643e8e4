"""Runs Keras models under the names their artifacts have."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tracing import trace


class KerasRunner(Runner):
    """Runs a Keras model's inference pass under the names its artifacts have.

    Args:
        model: a built model; it stays as it was.
        input_signature: as in `export`, for subclassed models.
    """

    def __init__(self, model: keras.Model, input_signature: Any = None):
        traced = trace(model, None, input_signature)
        super().__init__(traced.inputs, traced.outputs)
        self.name = model.name
        self._traced = traced

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that calls the traced model."""
        import tensorflow as tf

        feeds = [tf.constant(batch[info.name]) for info in self.inputs]

        def once() -> dict[str, np.ndarray]:
            outputs = self._traced.function(*feeds)
            return {name: value.numpy() for name, value in outputs.items()}

        return once
