"""DIST: relations of the outputs, within a sample and within a class."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.losses.base import (
    LOSSES,
    DistillationLoss,
    positive,
    positive_or_schedule,
)
from tfcompress.distillation.weighting import now


@LOSSES.register("dist")
class Dist(DistillationLoss):
    """Lets the student rank classes, and samples in each class, as the teacher does.

    When to use: with a teacher that is much stronger than the student. Soft labels ask
    for the teacher's very probabilities, which such a student cannot have; here a
    correlation of one is enough, whatever the scale and offset.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher" (2022),
    equations 8 to 10. With p the probabilities at temperature T, r Pearson's
    correlation, b samples and c classes:

    `T^2 * (beta / b * sum_i (1 - r(p_t[i, :], p_s[i, :]))
    + gamma / c * sum_j (1 - r(p_t[:, j], p_s[:, j])))`

    Larger batches say more about a class. Weights of samples count in both sums.

    Args:
        beta: float > 0, weight of the relations within a sample.
        gamma: float > 0, weight of the relations within a class.
        temperature: float > 0, T above, or a `keras.optimizers.schedules` schedule.
        teacher_layer_name, student_layer_name: see `DistillationLoss`.

    Raises:
        InvalidArgumentError: for models with different classes or without logits, and
            for outputs of more than one place or step in a sample.

    Example:

    >>> teacher = ops.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    >>> abs(float(Dist().compute_loss(teacher, teacher))) < 1e-5
    True
    """

    needs_logits = True
    context = ("sample_weight",)

    def __init__(
        self,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: Any = 1.0,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
    ):
        super().__init__(teacher_layer_name, student_layer_name)
        self.beta = positive("beta", beta)
        self.gamma = positive("gamma", gamma)
        self.temperature = positive_or_schedule("temperature", temperature)

    def values(self, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
        self.require_classes(teacher, student)
        if len(student.shape) != 2:
            raise InvalidArgumentError(
                "Dist compares the samples of each class.",
                received=f"outputs of shape {tuple(student.shape)}",
                expected="(batch, classes)",
                fix="take SoftLabels for outputs with several steps or places",
            )
        temperature = now(self.temperature)
        t, s = (ops.softmax(x / temperature, axis=-1) for x in (teacher, student))
        weight = ops.ones_like(s[:, 0])
        if sample_weight is not None:
            weight = ops.cast(sample_weight, "float32")
        within_samples = 1.0 - correlation(t, s, ops.ones_like(s), axis=-1)
        within_classes = 1.0 - correlation(t, s, weight[:, None], axis=0)
        apart = self.beta * within_samples + self.gamma * ops.mean(within_classes)
        return apart * temperature**2


def correlation(first: Any, second: Any, weight: Any, axis: int) -> Any:
    """Returns Pearson's weighted correlation along an axis; 0 where nothing varies."""
    total = ops.maximum(ops.sum(weight, axis=axis, keepdims=True), 1e-12)

    def centred(values: Any) -> Any:
        mean = ops.sum(weight * values, axis=axis, keepdims=True) / total
        return values - mean

    first, second = centred(first), centred(second)
    product = ops.sum(weight * first * second, axis=axis)
    squares = [ops.sum(weight * x * x, axis=axis) for x in (first, second)]
    return product / ops.sqrt(squares[0] * squares[1] + 1e-12)
