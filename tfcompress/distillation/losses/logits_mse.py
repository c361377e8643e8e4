"""Mean squared error between the models' logits, or their predicted numbers."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.distillation.losses.base import LOSSES, DistillationLoss


@LOSSES.register("logits_mse")
class LogitsMSE(DistillationLoss):
    """Lets the student output the teacher's numbers.

    For logits it is what soft labels become at very high temperature, without a
    temperature to choose. For regression it is the plain analogue of soft labels.

    Source: Ba and Caruana, "Do Deep Nets Really Need to be Deep?" (2014), equation
    1; Kim et al. (2021) find it ahead of the divergence. Per sample or step, over
    n outputs:

    `1/n * sum_j (s_j - t_j)^2`

    Args:
        center: subtract each model's mean over the outputs first, as softmax does
            not see it. For logits only.
        teacher_layer_name, student_layer_name: see `DistillationLoss`.

    Raises:
        InvalidArgumentError: for outputs of different lengths.

    Example:

    >>> loss = LogitsMSE()
    >>> float(loss.compute_loss(ops.array([[1.0, 3.0]]), ops.array([[1.0, 1.0]])))
    2.0
    """

    def __init__(
        self,
        center: bool = False,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
    ):
        super().__init__(teacher_layer_name, student_layer_name)
        self.center = center
        self.needs_logits = center

    def values(self, teacher: Any, student: Any) -> Any:
        self.require_equal_width(teacher, student)
        if len(student.shape) == 1:
            return ops.square(student - teacher)
        if self.center:
            teacher, student = (
                x - ops.mean(x, axis=-1, keepdims=True) for x in (teacher, student)
            )
        return ops.mean(ops.square(student - teacher), axis=-1)
