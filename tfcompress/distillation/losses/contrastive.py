"""Contrastive distillation: each sample recognised among those of its batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.distillation.losses.base import LOSSES, positive
from tfcompress.distillation.losses.projected import ProjectedLoss, require_width
from tfcompress.distillation.losses.shapes import flat


@LOSSES.register("contrastive")
class Contrastive(ProjectedLoss):
    """Lets the student's features tell which sample of the batch the teacher saw.

    For representations that are used further (retrieval, transfer): it keeps all
    that tells samples apart, where soft labels keep what tells classes apart. The
    other samples of the batch are the negatives, so batches should be large; no
    memory bank is kept, unlike in the paper.

    Source: Tian et al., "Contrastive Representation Distillation" (2020), with the
    in-batch objective of van den Oord et al. (2018). With learned projections to
    unit vectors f (teacher) and g (student), per sample i:

    `-log(exp(<f_i, g_i> / tau) / sum_j exp(<f_j, g_i> / tau))`

    Samples without weight are nobody's negatives.

    Args:
        teacher_layer_name, student_layer_name: layers, best the last before the
            classifier. Features of any shape are flattened.
        dimensions: int > 0, length of the projected vectors.
        temperature: float > 0, tau above.

    Example:

    >>> loss = Contrastive("embedding", "embedding", dimensions=8)
    >>> value = loss.compute_loss(ops.ones((4, 6)), ops.ones((4, 3)))
    >>> round(float(value), 4)  # all alike: one guess in four
    1.3863
    """

    context = ("sample_weight",)

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        dimensions: int = 64,
        temperature: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(teacher_layer_name, student_layer_name, **kwargs)
        self.dimensions = int(positive("dimensions", dimensions))
        self.temperature = positive("temperature", temperature)

    def make(self, teacher_shape: tuple, student_shape: tuple) -> None:
        self.projections = []
        for shape in (teacher_shape, student_shape):
            size = 1
            for axis in shape[1:]:
                size *= axis or 0
            require_width(self, (None, size or None))
            dense = keras.layers.Dense(self.dimensions, dtype="float32")
            dense.build((None, size))
            self.projections.append(dense)

    def values(self, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
        t, s = (
            ops.normalize(projection(flat(features)), axis=-1, epsilon=1e-12)
            for projection, features in zip(self.projections, (teacher, student))
        )
        likeness = ops.matmul(s, ops.transpose(t)) / self.temperature
        if sample_weight is not None:
            counts = ops.greater(ops.cast(sample_weight, "float32"), 0.0)
            own = ops.eye(ops.shape(likeness)[0], dtype="bool")
            likeness = ops.where(ops.logical_or(counts[None], own), likeness, -1e9)
        return -ops.diagonal(ops.log_softmax(likeness, axis=-1))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dimensions": self.dimensions,
            "temperature": self.temperature,
        }
