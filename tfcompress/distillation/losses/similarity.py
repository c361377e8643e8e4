"""Similarity-preserving distillation: which samples of a batch look alike."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.losses.base import LOSSES, DistillationLoss
from tfcompress.distillation.losses.shapes import flat


@LOSSES.register("similarity")
class SimilarityPreserving(DistillationLoss):
    """Lets pairs of samples be as similar to the student as to the teacher.

    For features of different shapes: only the similarities within a batch are
    compared. Larger batches say more.

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation" (2019),
    equation 4. With features flattened to the rows of Q, G = Q Q^T and its rows
    scaled to length one, for a batch of b samples:

    `1/b^2 * ||G_t - G_s||^2`

    Weights count for both samples of a pair.

    The values are small: without weights, a `Distiller` takes 3000, as the paper does.

    Args:
        teacher_layer_name, student_layer_name: see `DistillationLoss`.

    Example:

    >>> loss = SimilarityPreserving("conv4", "conv2")
    >>> features = ops.array([[1.0, 0.0], [0.0, 1.0]])
    >>> float(loss.compute_loss(features, 2.0 * features))
    0.0
    """

    context = ("sample_weight",)
    default_weight = 3000.0  # the paper's

    def values(self, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
        difference = ops.square(
            _similarities(teacher, sample_weight)
            - _similarities(student, sample_weight)
        )
        if sample_weight is not None:
            difference = difference * ops.cast(sample_weight, "float32")
        return ops.mean(difference, axis=-1)


def _similarities(features: Any, sample_weight: Any) -> Any:
    rows = flat(features)
    if sample_weight is not None:
        # A sample without weight must not change the length of the others' rows.
        counts = ops.cast(ops.greater(sample_weight, 0), rows.dtype)
        rows = rows * ops.expand_dims(counts, -1)
    gram = ops.matmul(rows, ops.transpose(rows))
    return ops.normalize(gram, axis=-1, epsilon=1e-12)
