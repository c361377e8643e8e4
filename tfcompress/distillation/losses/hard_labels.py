"""Hard labels: the class the teacher decides for."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.losses.base import LOSSES, DistillationLoss


@LOSSES.register("hard_labels")
class HardLabels(DistillationLoss):
    """Lets the student predict the class that the teacher would decide for.

    For unlabelled data, or as data-efficient image transformers use it: the
    teacher's decision corrects labels that do not fit the (augmented) image.

    Source: Touvron et al., "Training data-efficient image transformers &
    distillation through attention" (2021), equation 3. Per sample or step:

    `-log softmax(s)[argmax(t)]`

    Args:
        teacher_layer_name, student_layer_name: see `DistillationLoss`.

    Raises:
        InvalidArgumentError: for models with different classes or without logits.

    Example:

    >>> loss = HardLabels()
    >>> value = loss.compute_loss(ops.array([[0.0, 9.0]]), ops.array([[0.0, 0.0]]))
    >>> round(float(value), 4)
    0.6931
    """

    needs_logits = True

    def values(self, teacher: Any, student: Any) -> Any:
        self.require_classes(teacher, student)
        decided = ops.one_hot(ops.argmax(teacher, axis=-1), student.shape[-1])
        return -ops.sum(decided * ops.log_softmax(student, axis=-1), axis=-1)
