"""Relational distillation, angles: which triangles samples of a batch form."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.losses.base import LOSSES, DistillationLoss
from tfcompress.distillation.losses.relational_distance import huber
from tfcompress.distillation.losses.shapes import flat


@LOSSES.register("relational_angle")
class RelationalAngle(DistillationLoss):
    """Lets triples of samples form the same angles for the student and the teacher.

    For embeddings: angles carry more than distances do. Memory grows with the
    cube of the batch size (512: 0.5 GB) and with its square times the length of the
    features, so take pooled features rather than whole maps.

    Source: Park et al., "Relational Knowledge Distillation" (2019), equation 9.
    With e_ij = (f_i - f_j) / ||f_i - f_j||, over triples of the batch of b:

    `1/b^3 * sum_ijk huber(<e^t_ij, e^t_kj> - <e^s_ij, e^s_kj>)`

    Weights count for all samples of a triple.

    The values are small: without weights, a `Distiller` takes 50, as the paper does.

    Args:
        teacher_layer_name, student_layer_name: see `DistillationLoss`.

    Example:

    >>> loss = RelationalAngle("embedding", "embedding")
    >>> points = ops.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> float(loss.compute_loss(points, 5.0 * points + 1.0)) < 1e-12
    True
    """

    context = ("sample_weight",)
    default_weight = 50.0  # the paper's

    def values(self, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
        difference = huber(_cosines(flat(teacher)) - _cosines(flat(student)))
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
            difference = difference * weight[:, None] * weight[None]
        return ops.mean(difference, axis=(1, 2))


def _cosines(rows: Any) -> Any:
    """Returns the cosine at sample j of the triangle i, j, k, as [j, i, k]."""
    sides = rows[None] - rows[:, None]
    squared = ops.sum(ops.square(sides), axis=-1, keepdims=True)
    # No direction, and no gradient of the root, where a sample meets itself.
    apart = squared > 1e-12
    length = ops.sqrt(ops.where(apart, squared, 1.0))
    unit = ops.where(apart, sides / length, 0.0)
    return ops.einsum("jid,jkd->jik", unit, unit)
