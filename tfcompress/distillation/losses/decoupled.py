"""Decoupled knowledge distillation: target and non-target classes apart."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.formulas import standardized
from tfcompress.distillation.losses.base import (
    LOSSES,
    DistillationLoss,
    positive,
    positive_or_schedule,
)
from tfcompress.distillation.weighting import now

_NEVER = -1e9  # a logit whose probability is zero, and finite


@LOSSES.register("decoupled")
class DecoupledKnowledge(DistillationLoss):
    """Weights what the teacher says about the wrong classes by itself.

    For confident teachers: in soft labels the wrong classes count with
    `1 - p(target)`, so a teacher that is sure of the label teaches little. Here
    they have a weight of their own.

    Source: Zhao et al., "Decoupled Knowledge Distillation" (2022), equation 7. With
    b the probabilities (target, all others) and q those of the other classes among
    themselves, all at temperature T:

    `T^2 * (alpha * KL(b_t || b_s) + beta * KL(q_t || q_s))`

    The target is the label; without labels (in `keras.distillation.Distiller`, or
    unlabelled data) it is the class the teacher decides for.

    Args:
        alpha: float > 0, weight of the target class.
        beta: float > 0, weight of the other classes; the paper uses 1 to 8.
        temperature: float > 0, or a `keras.optimizers.schedules` schedule.
        teacher_layer_name, student_layer_name: see `DistillationLoss`.
        standardize: whether logits are standardized, as in `SoftLabels`.

    Raises:
        InvalidArgumentError: for models with different classes or without logits.

    Example:

    >>> loss = DecoupledKnowledge(beta=8.0)
    >>> teacher = ops.array([[3.0, 1.0, 0.0]])
    >>> float(loss.compute_loss(teacher, teacher, labels=ops.array([0])))
    0.0
    """

    needs_logits = True
    context = ("labels",)

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: Any = 4.0,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        standardize: bool = False,
    ):
        super().__init__(teacher_layer_name, student_layer_name)
        self.standardize = standardize
        self.alpha = positive("alpha", alpha)
        self.beta = positive("beta", beta)
        self.temperature = positive_or_schedule("temperature", temperature)

    def values(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        self.require_classes(teacher, student)
        target = _target(teacher, labels)
        if self.standardize:
            teacher, student = standardized(teacher), standardized(student)
        temperature = now(self.temperature)
        pairs = [self._split(x / temperature, target) for x in (teacher, student)]
        (own_t, rest_t, others_t), (own_s, rest_s, others_s) = pairs
        binary = ops.exp(own_t) * (own_t - own_s) + ops.exp(rest_t) * (rest_t - rest_s)
        other = ops.sum(ops.exp(others_t) * (others_t - others_s), axis=-1)
        return (self.alpha * binary + self.beta * other) * temperature**2

    def _split(self, logits: Any, target: Any) -> tuple[Any, Any, Any]:
        """Returns log p(target), log p(not target) and log q of the others."""
        log_p = ops.log_softmax(logits, axis=-1)
        own = ops.sum(ops.where(target, log_p, 0.0), axis=-1)
        rest = ops.logsumexp(ops.where(target, _NEVER, log_p), axis=-1)
        others = ops.log_softmax(ops.where(target, _NEVER, logits), axis=-1)
        return (
            own,
            rest,
            ops.where(target, 0.0, others) + ops.where(target, _NEVER, 0.0),
        )


def _target(teacher: Any, labels: Any) -> Any:
    """Returns a boolean tensor like `teacher`, true at the target class."""
    classes = teacher.shape[-1]
    if labels is None:
        labels = ops.argmax(teacher, axis=-1)
    elif len(labels.shape) == len(teacher.shape):
        if labels.shape[-1] == classes:
            labels = ops.argmax(labels, axis=-1)
        else:
            labels = ops.squeeze(labels, axis=-1)
    return ops.one_hot(ops.cast(labels, "int32"), classes, dtype="bool")
