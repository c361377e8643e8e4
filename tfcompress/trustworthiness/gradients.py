"""Gradients with respect to inputs, for which Keras has no public function."""

from __future__ import annotations

import numpy as np
from keras import ops

from tfcompress.exporters.tracing import trace
from tfcompress.trustworthiness.predictions import Columns, Subject

_BATCH = 128


class InputGradients:
    """Differentiates a Keras model with respect to its inputs.

    Args:
        subject: a model that is in Keras, and has been started.
    """

    def __init__(self, subject: Subject):
        self._subject = subject
        self._traced = trace(subject.model, None, subject.signature)

    def of_loss(self, columns: Columns, classes: np.ndarray) -> Columns | None:
        """Returns the gradient of the cross-entropy with the given classes."""
        return self._gradients(columns, classes, -1.0, normalized=True)

    def of_score(self, columns: Columns, classes: np.ndarray) -> Columns | None:
        """Returns the gradient of the given classes' logits, or log-probabilities."""
        return self._gradients(columns, classes, 1.0, normalized=False)

    def _gradients(
        self, columns: Columns, classes: np.ndarray, sign: float, normalized: bool
    ) -> Columns | None:
        """Returns one array for each float input; None if there is no gradient."""
        import tensorflow as tf

        own = self._subject.columns(columns)
        names = {name: given for name, given in zip(own, columns) if _float(own[name])}
        parts: dict[str, list[np.ndarray]] = {given: [] for given in names.values()}
        for start in range(0, len(classes), _BATCH):
            part = slice(start, start + _BATCH)
            feeds = {
                info.name: tf.constant(own[info.name][part])
                for info in self._traced.inputs
            }
            watched = [feeds[name] for name in names]
            with tf.GradientTape() as tape:
                tape.watch(watched)
                (output,) = self._traced.function(*feeds.values()).values()
                scores = self._subject.outputs.scores(output, normalized)
                one_hot = ops.one_hot(classes[part], scores.shape[-1])
                total = sign * ops.sum(scores * ops.cast(one_hot, scores.dtype))
            found = tape.gradient(total, watched)
            if any(gradient is None for gradient in found):
                return None
            for given, gradient in zip(names.values(), found):
                parts[given].append(gradient.numpy())
        gradients = {name: np.concatenate(values) for name, values in parts.items()}
        finite = all(np.isfinite(gradient).all() for gradient in gradients.values())
        # A rounding without a straight-through estimate has a gradient: zero.
        moving = any(gradient.any() for gradient in gradients.values())
        return gradients if finite and moving else None


def _float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"
