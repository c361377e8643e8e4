"""Regression in which the teacher is a bound and not a goal."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.core.arguments import number
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.losses.base import LOSSES, DistillationLoss


@LOSSES.register("bounded_regression")
class BoundedRegression(DistillationLoss):
    """Punishes the student's error only where the teacher does better.

    For regression: a teacher's number can be far from the truth, and copying it
    (`LogitsMSE`) would teach its mistakes.

    Source: Chen et al., "Learning Efficient Object Detection Models with Knowledge
    Distillation" (2017), equation 4. Per sample, with label y and margin m:

    `||s - y||^2 if ||s - y||^2 + m > ||t - y||^2 else 0`

    Args:
        margin: float >= 0, in squared units of the output: by how much the student
            must beat the teacher to be left alone.
        teacher_layer_name, student_layer_name: see `DistillationLoss`.

    Raises:
        InvalidArgumentError: without labels.

    Example:

    >>> loss = BoundedRegression()
    >>> t, s = ops.array([[2.0], [2.0]]), ops.array([[3.0], [1.5]])
    >>> float(loss.compute_loss(t, s, labels=ops.array([[1.0], [1.0]])))
    2.0
    """

    context = ("labels",)

    def __init__(
        self,
        margin: float = 0.0,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
    ):
        super().__init__(teacher_layer_name, student_layer_name)
        self.margin = number(margin, "Wrong margin.", "[0, inf)", "a number >= 0")

    def values(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        if labels is None:
            raise InvalidArgumentError(
                "BoundedRegression needs labels.",
                received="no labels",
                expected="labels `y` in the fit of a tfcompress.Distiller",
                fix="use LogitsMSE where there are no labels",
            )
        self.require_equal_width(teacher, student)
        labels = ops.reshape(ops.cast(labels, "float32"), ops.shape(student))
        axes = tuple(range(1, len(student.shape)))
        error = ops.sum(ops.square(student - labels), axis=axes)
        bound = ops.sum(ops.square(teacher - labels), axis=axes)
        return ops.where(error + self.margin > bound, error, 0.0)
