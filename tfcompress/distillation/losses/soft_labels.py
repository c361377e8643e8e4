"""Soft labels: the teacher's probabilities at a higher temperature."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.formulas import soft_divergence, standardized
from tfcompress.distillation.losses.base import (
    LOSSES,
    DistillationLoss,
    positive_or_schedule,
)
from tfcompress.distillation.weighting import now


@LOSSES.register("soft_labels")
class SoftLabels(DistillationLoss):
    """Lets the student match the teacher's softened class probabilities.

    The first choice for classifiers: wrong classes that the teacher finds likely
    tell the student what things look like. For sequence models with logits of
    shape `(batch, steps, vocabulary)` it is the per-token divergence, in which
    masked steps do not count.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015),
    section 2. With logits t and s, per sample or step:

    `T^2 * KL(softmax(t / T) || softmax(s / T))`

    With `standardize` (Sun et al., "Logit Standardization in Knowledge Distillation",
    2024, algorithm 2) t and s are first brought to a mean of zero and a standard
    deviation of one over the classes, so that the student need not have logits as
    large as the teacher's. Temperatures near 2 and larger weights go with it.

    Args:
        temperature: float > 0, T above; 1 to 10, higher is softer. T^2 keeps the
            gradient's size independent of T. A `keras.optimizers.schedules` schedule
            changes it over the steps of the optimizer.
        from_probabilities: both models output probabilities, whose logarithms are
            logits up to a constant that softmax does not see.
        teacher_layer_name, student_layer_name: see `DistillationLoss`.
        standardize: whether logits are standardized.

    Raises:
        InvalidArgumentError: for models that output another number of classes, or
            probabilities while `from_probabilities` is false.

    Example:

    >>> loss = SoftLabels(temperature=2.0)
    >>> float(loss.compute_loss(ops.array([[2.0, 0.0]]), ops.array([[2.0, 0.0]])))
    0.0
    """

    def __init__(
        self,
        temperature: Any = 3.0,
        from_probabilities: bool = False,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        standardize: bool = False,
    ):
        super().__init__(teacher_layer_name, student_layer_name)
        self.standardize = standardize
        self.temperature = positive_or_schedule("temperature", temperature)
        self.from_probabilities = from_probabilities
        self.needs_logits = not from_probabilities

    def values(self, teacher: Any, student: Any) -> Any:
        self.require_classes(teacher, student)
        if self.from_probabilities:
            teacher, student = (
                ops.log(ops.clip(x, 1e-7, 1.0)) for x in (teacher, student)
            )
        if self.standardize:
            teacher, student = standardized(teacher), standardized(student)
        return soft_divergence(teacher, student, now(self.temperature))
