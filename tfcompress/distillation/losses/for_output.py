"""A loss for one output of models that have several."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.features import names_in
from tfcompress.distillation.losses.base import LOSSES, DistillationLoss
from tfcompress.distillation.terms import distillation_term


@LOSSES.register("for_output")
class ForOutput(DistillationLoss):
    """Applies a loss to one output of models with several outputs.

    For multi-task models. `Distiller(..., {"label": SoftLabels(), "age":
    LogitsMSE()})` makes one for each key.

    Args:
        output: the output's name (its key in models that output dicts), or its
            position in models that output lists.
        loss: the distillation loss for this output.

    Raises:
        InvalidArgumentError: if a model has no such output.

    Example:

    >>> from keras import ops
    >>> from tfcompress.distillation.losses import LogitsMSE
    >>> loss = ForOutput("age", LogitsMSE())
    >>> t, s = {"age": ops.array([[3.0]])}, {"age": ops.array([[1.0]])}
    >>> float(loss.compute_loss(t, s))
    4.0
    """

    def __init__(self, output: str | int, loss: Any):
        super().__init__()
        self.output = output
        self.loss = LOSSES.get(loss)
        self.default_weight = getattr(self.loss, "default_weight", 1.0)
        if names_in(self.loss, "teacher_layer_name"):
            raise InvalidArgumentError(
                f"{type(self.loss).__name__} compares layers and not an output.",
                received=f"a loss with teacher_layer_name for output {output!r}",
                expected="a loss without layer names",
                fix="give it to the distiller by itself, in a list",
            )

    def validate_model_compatibility(self, teacher: Any, student: Any) -> None:
        """Finds the position of the output in models that output lists."""
        self._positions = [_position(m, self.output) for m in (teacher, student)]

    def compute_loss(
        self,
        teacher_outputs: Any,
        student_outputs: Any,
        sample_weight: Any = None,
        labels: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Returns the loss of this output as a float32 scalar."""
        teacher, student = getattr(self, "_positions", [self.output] * 2)
        return distillation_term(
            self.loss,
            self._of(teacher_outputs, teacher),
            self._of(student_outputs, student),
            self._of(sample_weight, student, whole=True),
            self._of(labels, student),
        )

    def _of(self, outputs: Any, position: Any, whole: bool = False) -> Any:
        if not keras.tree.is_nested(outputs):
            return outputs if whole else None
        if isinstance(outputs, dict):
            return outputs.get(self.output)
        return outputs[position] if isinstance(position, int) else None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ForOutput:
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(config["output"], loss)


def _position(model: Any, output: str | int) -> str | int:
    structure = getattr(model, "output", None)
    names = list(getattr(model, "output_names", None) or [])
    if isinstance(structure, dict):
        names = list(structure)
    known = output in names or (isinstance(output, int) and output < len(names))
    if names and not known:
        raise InvalidArgumentError(
            f"Model '{model.name}' has no such output.",
            received=repr(output),
            expected="one of " + ", ".join(map(repr, names)),
        )
    if isinstance(structure, dict) or output not in names:
        return output
    return names.index(str(output))
