"""Hints: the student predicts what a hidden layer of the teacher outputs."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.losses.base import LOSSES
from tfcompress.distillation.losses.projected import ProjectedLoss, require_width
from tfcompress.distillation.losses.shapes import match_places


@LOSSES.register("hint")
class Hint(ProjectedLoss):
    """Lets a layer of the student predict a layer of the teacher.

    For students that are deep and thin. Widths may differ: a linear projection
    (a 1x1 convolution on images) is learned with the student and thrown away
    after it. Maps of different size are brought to the smaller one.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets" (2015), equation 3.
    With the learned projection r, over the n places and channels of a sample:

    `1/n * || t - r(s) ||^2`

    Args:
        teacher_layer_name, student_layer_name: layers with outputs of shape
            `(batch, channels)`, `(batch, steps, channels)` or
            `(batch, height, width, channels)`, both of the same kind.

    Raises:
        InvalidArgumentError: for features of different kinds.

    Example:

    >>> loss = Hint("conv4", "conv2")
    >>> value = loss.compute_loss(ops.ones((2, 4, 4, 8)), ops.ones((2, 8, 8, 3)))
    >>> [tuple(weight.shape) for weight in loss.weights]
    [(3, 8), (8,)]
    """

    def make(self, teacher_shape: tuple, student_shape: tuple) -> None:
        require_width(self, teacher_shape, student_shape)
        if len(teacher_shape) != len(student_shape):
            raise InvalidArgumentError(
                "Hint compares features of different kinds.",
                received=f"teacher {teacher_shape}, student {student_shape}",
                expected="as many axes in one as in the other",
                fix="name a layer after the pooling or flattening in both models",
            )
        # A dense layer on the last axis is a convolution with a 1x1 kernel.
        self.projection = keras.layers.Dense(teacher_shape[-1], dtype="float32")
        self.projection.build(student_shape)

    def values(self, teacher: Any, student: Any) -> Any:
        if len(student.shape) > 2:
            teacher, student = match_places(teacher, student, "Hint")
        return ops.mean(ops.square(teacher - self.projection(student)), axis=-1)
