"""Cosine distance between the features of teacher and student."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.distillation.losses.base import LOSSES
from tfcompress.distillation.losses.projected import ProjectedLoss, require_width


@LOSSES.register("cosine")
class CosineDistance(ProjectedLoss):
    """Lets the student's features point where the teacher's do.

    For embeddings that are compared by direction, and for hidden states of
    transformers. Lengths do not count; unequal widths are bridged by a learned
    linear projection, equal ones are compared as they are.

    Source: Sanh et al., "DistilBERT" (2019), section 2. With the projection r
    (the identity for equal widths), per sample, step or place:

    `1 - <t, r(s)> / (||t|| ||r(s)||)`

    Args:
        teacher_layer_name, student_layer_name: layers with outputs of shape
            `(batch, ..., channels)`, equal but for the channels.

    Example:

    >>> loss = CosineDistance("embedding", "embedding")
    >>> t, s = ops.array([[1.0, 0.0]]), ops.array([[0.0, 3.0]])
    >>> float(loss.compute_loss(t, s))
    1.0
    """

    projection: Any = None

    def make(self, teacher_shape: tuple, student_shape: tuple) -> None:
        require_width(self, teacher_shape, student_shape)
        if teacher_shape[-1] != student_shape[-1]:
            self.projection = keras.layers.Dense(
                teacher_shape[-1], use_bias=False, dtype="float32"
            )
            self.projection.build(student_shape)

    def values(self, teacher: Any, student: Any) -> Any:
        if self.projection is not None:
            student = self.projection(student)
        t, s = (ops.normalize(x, axis=-1, epsilon=1e-12) for x in (teacher, student))
        return 1.0 - ops.sum(t * s, axis=-1)
