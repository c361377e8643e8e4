"""Deep supervision: a hidden layer learns to say what the last layer says."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfcompress.core.arguments import number
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.formulas import class_probabilities, soft_divergence
from tfcompress.distillation.losses.base import (
    LOSSES,
    positive_or_schedule,
)
from tfcompress.distillation.losses.projected import ProjectedLoss, require_width
from tfcompress.distillation.weighting import now


@LOSSES.register("deep_supervision")
class DeepSupervision(ProjectedLoss):
    """Gives a hidden layer a classifier that labels and the last layer teach.

    For models without a teacher: the model's own last layer is one, and early
    layers that can nearly classify by themselves make better features for it. The
    classifier (a linear layer with ReLU as wide as the hidden layer, the mean over
    places, a linear layer to the classes) is learned with the model and thrown away
    after it. `deep_supervision` sets several of them up.

    Source: Zhang et al., "Be Your Own Teacher" (2019), equations 1 and 2. With the
    classifier's logits c, the model's own logits z (no gradient flows into them),
    the label y and temperature T:

    `(1 - teaching_weight) * CE(y, c) + teaching_weight * T^2 KL(softmax(z / T) ||
    softmax(c / T))`

    The paper's third term, hints from the last features, is left out. Where no label
    is known (in `keras.distillation.Distiller`, or without `y`) the second term
    stands alone.

    Args:
        student_layer_name: the hidden layer, with outputs of shape `(batch, ...,
            channels)`.
        teaching_weight: float in [0, 1], share of what the last layer says.
        temperature: float > 0, or a `keras.optimizers.schedules` schedule.
        teacher_layer_name: `None` for the model's own last layer; or the layer of a
            teacher that gives its logits, so that z are those of the teacher
            (`keras.distillation.Distiller` knows only this).

    Raises:
        InvalidArgumentError: for arguments outside their ranges, no layer, and a
            model without logits.

    Example:

    >>> loss = DeepSupervision("conv2")
    >>> logits, features = ops.ones((2, 3)), ops.ones((2, 4, 4, 8))
    >>> value = loss.compute_loss(logits, features, labels=ops.array([0, 2]))
    >>> [tuple(weight.shape) for weight in loss.weights]
    [(8, 8), (8,), (8, 3), (3,)]
    """

    needs_logits = True
    context = ("labels",)

    def __init__(
        self,
        student_layer_name: str | None = None,
        teaching_weight: float = 0.3,
        temperature: Any = 3.0,
        teacher_layer_name: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(teacher_layer_name, student_layer_name, **kwargs)
        self.taught_by_student = teacher_layer_name is None
        if not student_layer_name:
            raise InvalidArgumentError(
                "Deep supervision is of one hidden layer.",
                received=f"student_layer_name={student_layer_name!r}",
                expected="the name of a layer",
            )
        self.teaching_weight = number(
            teaching_weight, "Wrong teaching_weight.", "[0, 1]"
        )
        self.temperature = positive_or_schedule("temperature", temperature)

    def make(self, teacher_shape: tuple, student_shape: tuple) -> None:
        require_width(self, teacher_shape, student_shape)
        if len(student_shape) < len(teacher_shape):
            raise InvalidArgumentError(
                "A layer with fewer axes than the output cannot predict it.",
                received=f"layer {student_shape}, output {teacher_shape}",
                expected="at least as many axes",
                fix="name a layer before the pooling or flattening",
            )
        width = student_shape[-1]
        self.hidden = keras.layers.Dense(width, activation="relu", dtype="float32")
        self.hidden.build(student_shape)
        self.classifier = keras.layers.Dense(teacher_shape[-1], dtype="float32")
        self.classifier.build((*teacher_shape[:-1], width))

    def values(self, teacher: Any, student: Any, labels: Any = None) -> Any:
        features = self.hidden(student)
        # An output for each step keeps the steps; what is beyond it are places.
        places = tuple(range(len(teacher.shape) - 1, len(student.shape) - 1))
        logits = self.classifier(ops.mean(features, axis=places))
        self.require_classes(teacher, logits)
        said = soft_divergence(teacher, logits, now(self.temperature))
        if labels is None:
            return self.teaching_weight * said
        log_p = ops.log_softmax(logits, axis=-1)
        true = -ops.sum(class_probabilities(labels, logits.shape[-1]) * log_p, axis=-1)
        return (1.0 - self.teaching_weight) * true + self.teaching_weight * said

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "teaching_weight": self.teaching_weight,
            "temperature": keras.saving.serialize_keras_object(self.temperature),
        }
