"""Soft labels for outputs that are each a yes or a no."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.losses.base import (
    LOSSES,
    DistillationLoss,
    positive_or_schedule,
)
from tfcompress.distillation.weighting import now


@LOSSES.register("multi_label")
class MultiLabel(DistillationLoss):
    """Lets the student match the teacher's probability of each label by itself.

    For binary classifiers and for several labels at once (sigmoid outputs), where
    probabilities do not sum to one and soft labels would be wrong.

    Source: the divergence of Hinton et al. (2015) for Bernoulli variables, as in
    Yang et al., "Multi-Label Knowledge Distillation" (2023), equation 2. With
    p = sigmoid(t / T) and q = sigmoid(s / T), over n labels:

    `T^2 / n * sum_j (p_j log(p_j / q_j) + (1 - p_j) log((1 - p_j) / (1 - q_j)))`

    Args:
        temperature: float > 0, or a `keras.optimizers.schedules` schedule.
        teacher_layer_name, student_layer_name: see `DistillationLoss`.

    Raises:
        InvalidArgumentError: for outputs of different lengths, or probabilities
            instead of logits.

    Example:

    >>> loss = MultiLabel(temperature=1.0)
    >>> value = loss.compute_loss(ops.array([[50.0]]), ops.array([[0.0]]))
    >>> round(float(value), 4)
    0.6931
    """

    needs_logits = True

    def __init__(
        self,
        temperature: Any = 2.0,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
    ):
        super().__init__(teacher_layer_name, student_layer_name)
        self.temperature = positive_or_schedule("temperature", temperature)

    def values(self, teacher: Any, student: Any) -> Any:
        self.require_equal_width(teacher, student)
        temperature = now(self.temperature)
        teacher, student = teacher / temperature, student / temperature
        yes = ops.log_sigmoid(teacher) - ops.log_sigmoid(student)
        no = ops.log_sigmoid(-teacher) - ops.log_sigmoid(-student)
        p = ops.sigmoid(teacher)
        return ops.mean(p * yes + (1.0 - p) * no, axis=-1) * temperature**2
