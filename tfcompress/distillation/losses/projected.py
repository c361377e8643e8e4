"""Losses that learn a projection from the student's features to the teacher's."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.features import find_layer
from tfcompress.distillation.losses.base import DistillationLoss


class ProjectedLoss(keras.Layer, DistillationLoss):
    """Base of losses with weights of their own, trained with the student's.

    It is a Keras layer, so that either distiller finds its weights, trains them and
    saves them. They are made when the distiller is, from the shapes of the layers
    it names, or in the first step if a model does not know its shapes yet. The
    deployed student never contains them.

    Subclasses override `make(teacher_shape, student_shape)`, which creates layers,
    and `values`.
    """

    _shapes: tuple[tuple, tuple] | None = None

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        **kwargs: Any,
    ):
        keras.Layer.__init__(self, dtype="float32", **kwargs)
        DistillationLoss.__init__(self, teacher_layer_name, student_layer_name)

    def make(self, teacher_shape: tuple, student_shape: tuple) -> None:
        """Creates the layers of the projection, to be overridden."""
        raise NotImplementedError

    def build(self, teacher_shape: Any, student_shape: Any = None) -> None:
        # A saved loss comes back with the one shape that Keras passes: all of them.
        if student_shape is None:
            teacher_shape, student_shape = teacher_shape
        if self._shapes is None:
            self._shapes = (tuple(teacher_shape), tuple(student_shape))
            self.make(*self._shapes)

    def validate_model_compatibility(self, teacher: Any, student: Any) -> None:
        """Makes the projection if the models know the shapes of their layers."""
        shapes = (
            output_shape(teacher, self.teacher_layer_name),
            output_shape(student, self.student_layer_name),
        )
        if None not in shapes:
            self.build(*shapes)

    def compute_loss(
        self,
        teacher_outputs: Any,
        student_outputs: Any,
        sample_weight: Any = None,
        labels: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Returns the loss of a batch as a float32 scalar."""
        if keras.tree.is_nested(student_outputs):
            raise InvalidArgumentError(
                f"{type(self).__name__} learns one projection, for one output.",
                received=f"{len(keras.tree.flatten(student_outputs))} outputs",
                expected="the name of one layer for each model",
                fix="pass teacher_layer_name and student_layer_name",
            )
        self.build(teacher_outputs.shape, student_outputs.shape)
        return DistillationLoss.compute_loss(
            self, teacher_outputs, student_outputs, sample_weight, labels
        )

    def get_build_config(self) -> dict[str, Any] | None:
        return None if self._shapes is None else {"shapes": self._shapes}

    def build_from_config(self, config: dict[str, Any]) -> None:
        self.build(config["shapes"])

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, **DistillationLoss.get_config(self)}


def output_shape(model: Any, name: str | None) -> tuple | None:
    """Returns the shape of a layer's (or the model's) output, if it is known."""
    layer = model if name is None else find_layer(model, name)
    if isinstance(layer, keras.Sequential):
        outputs = getattr(layer, "outputs", None)
    else:
        try:
            outputs = keras.tree.flatten(layer.output)
        except (AttributeError, ValueError):
            return None
    return tuple(outputs[0].shape) if outputs and len(outputs) == 1 else None


def require_width(loss: Any, *shapes: tuple) -> None:
    """Raises unless all shapes have a last axis of known size."""
    if any(len(shape) < 2 or shape[-1] is None for shape in shapes):
        raise InvalidArgumentError(
            f"{type(loss).__name__} cannot make a projection between these features.",
            received=" and ".join(map(str, shapes)),
            expected="(batch, ..., channels) with a known number of channels",
        )
