"""Relational distillation, distances: how far samples of a batch are apart."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.losses.base import LOSSES, DistillationLoss
from tfcompress.distillation.losses.shapes import flat


@LOSSES.register("relational_distance")
class RelationalDistance(DistillationLoss):
    """Lets pairs of samples be as far apart for the student as for the teacher.

    For embeddings and other features whose length or scale differs: distances
    are taken relative to their mean. Best together with `RelationalAngle`.

    Source: Park et al., "Relational Knowledge Distillation" (2019), equation 7.
    With d_ij = ||f_i - f_j|| and its mean mu over the batch of b samples:

    `1/b^2 * sum_ij huber(d^t_ij / mu^t - d^s_ij / mu^s)`

    Weights count for both samples of a pair.

    The values are small: without weights, a `Distiller` takes 25, as the paper does.

    Args:
        teacher_layer_name, student_layer_name: see `DistillationLoss`.

    Example:

    >>> loss = RelationalDistance("embedding", "embedding")
    >>> points = ops.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> float(loss.compute_loss(points, 5.0 * points + 1.0)) < 1e-12
    True
    """

    context = ("sample_weight",)
    default_weight = 25.0  # the paper's

    def values(self, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
        rows = flat(student)
        weight = ops.ones_like(rows[:, 0])
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
        t, s = (_relative_distances(flat(x), weight) for x in (teacher, student))
        return ops.mean(huber(t - s) * weight, axis=-1)


def _relative_distances(rows: Any, weight: Any) -> Any:
    squared = ops.sum(ops.square(rows[:, None] - rows[None]), axis=-1)
    # The square root has no gradient at zero, where each sample meets itself.
    apart = squared > 1e-12
    distance = ops.where(apart, ops.sqrt(ops.where(apart, squared, 1.0)), 0.0)
    pairs = ops.cast(apart, "float32") * weight[:, None] * weight[None]
    mean = ops.sum(distance * pairs) / ops.maximum(ops.sum(pairs), 1e-12)
    return distance / ops.maximum(mean, 1e-12)


def huber(difference: Any) -> Any:
    """Returns `x^2 / 2` for `|x| <= 1` and `|x| - 1/2` beyond."""
    size = ops.abs(difference)
    return ops.where(size <= 1.0, 0.5 * ops.square(size), size - 0.5)
