"""What all distillation losses have in common."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.core.arguments import number
from tfcompress.core.configured import Configured
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.registry import Registry
from tfcompress.distillation.weighting import (
    Schedule,
    float32,
    mean,
    mean_weight,
    weights_per_output,
)

LOSSES: Registry[keras.distillation.DistillationLoss] = Registry(
    "distillation loss",
    keras.distillation.DistillationLoss,
    "keras.distillation.LogitsDistillation(temperature=3.0)",
)


class DistillationLoss(Configured, keras.distillation.DistillationLoss):
    """Base class of the losses here; also a base for losses of your own.

    Override `values(teacher, student)`: it receives float32 tensors of shape
    `(batch, ...)` and returns one value per sample, or per sample and step or
    place. What it returns is reduced like a Keras loss: weighted by sample, masked
    steps left out, shared between replicas. Several outputs are summed. It runs in
    `tfcompress.Distiller` and in `keras.distillation.Distiller`.

    Args:
        teacher_layer_name, student_layer_name: name or path of the layers whose
            outputs are compared; `None` for the models' outputs.

    Attributes:
        needs_logits: models that end in softmax or sigmoid are refused.
        context: what else `values` takes, of "labels" and "sample_weight".
        taught_by_student: the student's own output takes the place of the teacher's.
        default_weight: weight in a `Distiller` that is given none, with which the loss
            counts beside that of the labels.
    """

    needs_logits = False
    context: tuple[str, ...] = ()
    taught_by_student = False
    default_weight = 1.0
    reduces_like_keras = True

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
    ):
        self.teacher_layer_name = teacher_layer_name
        self.student_layer_name = student_layer_name

    def values(self, teacher: Any, student: Any) -> Any:
        """Returns one value per sample, to be overridden."""
        raise NotImplementedError

    def compute_loss(
        self,
        teacher_outputs: Any,
        student_outputs: Any,
        sample_weight: Any = None,
        labels: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Returns the loss of a batch as a float32 scalar."""
        teachers = keras.tree.flatten(teacher_outputs)
        students = keras.tree.flatten(student_outputs)
        count = len(students)
        if len(teachers) != count:
            raise InvalidArgumentError(
                f"{type(self).__name__} cannot pair the teacher's outputs with the "
                "student's.",
                received=f"{len(teachers)} of the teacher, {count} of the student",
                expected="as many of one as of the other",
            )
        targets = keras.tree.flatten(labels)
        if len(targets) != count:
            targets = [None] * count
        total = 0.0
        weights = weights_per_output(sample_weight, count)
        for t, s, weight, target in zip(teachers, students, weights, targets):
            total = total + self._output_loss(float32(t), float32(s), weight, target)
        return total

    def _output_loss(self, teacher: Any, student: Any, weight: Any, labels: Any) -> Any:
        given: dict[str, Any] = {"sample_weight": mean_weight(weight), "labels": labels}
        values = self.values(teacher, student, **{n: given[n] for n in self.context})
        mask = getattr(student, "_keras_mask", None)
        if mask is not None and len(values.shape) >= len(mask.shape):
            values._keras_mask = mask
        return mean(values, weight)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        # `values` says what it needs in words of its own.
        pass

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)

    def require_equal_width(self, teacher: Any, student: Any) -> None:
        """Raises unless the last axes are equal and hold more than one value."""
        widths = teacher.shape[-1], student.shape[-1]
        if widths[0] != widths[1]:
            raise InvalidArgumentError(
                f"{type(self).__name__} compares vectors of different lengths.",
                received=f"{widths[0]} of the teacher, {widths[1]} of the student",
                expected="equal lengths",
            )

    def require_classes(self, teacher: Any, student: Any) -> None:
        """Raises unless both are scores of the same two or more classes."""
        self.require_equal_width(teacher, student)
        if student.shape[-1] == 1:
            raise InvalidArgumentError(
                f"{type(self).__name__} compares distributions over classes, and over "
                "a single one there is nothing to learn.",
                received="outputs with one unit",
                expected="one unit per class",
                fix="use MultiLabel for a binary output, LogitsMSE or "
                "BoundedRegression for a number",
            )


def positive_or_schedule(name: str, value: Any) -> Any:
    """Returns a positive float, or a Keras schedule of them (maybe as its config)."""
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    return value if isinstance(value, Schedule) else positive(name, value)


def positive(name: str, value: Any) -> float:
    """Returns `value`, or raises if it is not a finite number above zero."""
    return number(value, f"Wrong {name}.", "(0, inf)", "a finite number > 0")
