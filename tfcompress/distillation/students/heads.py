"""Prediction compression: a small head on features that are extracted once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.core.copies import copy_model
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import require_built
from tfcompress.distillation.distiller import Distiller


@dataclasses.dataclass(frozen=True)
class HeadReport:
    """What `compress_predictions` made, and how good it is.

    Attributes:
        model: extractor and head as one model: what to deploy.
        head: the head alone, for features that are stored anyway.
        metrics: `{metric: value}` of the head on the validation data.
        teacher_metrics: the same of the teacher's own outputs, if there is one.
        head_parameters, teacher_parameters: numbers of weights after the features.
    """

    model: keras.Model
    head: keras.Model
    metrics: dict[str, float]
    teacher_metrics: dict[str, float]
    head_parameters: int
    teacher_parameters: int | None

    def to_markdown(self) -> str:
        """Returns the report as a table."""
        rows = ["| | head | teacher |", "|---|---|---|"]
        for name, value in self.metrics.items():
            theirs = self.teacher_metrics.get(name)
            shown = "" if theirs is None else f"{theirs:.4f}"
            rows.append(f"| {name} | {value:.4f} | {shown} |")
        count = "" if self.teacher_parameters is None else f"{self.teacher_parameters}"
        rows.append(
            f"| parameters after the features | {self.head_parameters} | {count} |"
        )
        return "\n".join(rows)


def compress_predictions(
    extractor: keras.Model,
    head: keras.Model,
    train: tuple[Any, Any],
    validation: tuple[Any, Any],
    compile_and_fit: Callable[..., Any],
    teacher_head: keras.Model | None = None,
) -> HeadReport:
    """Extracts features once, trains a small head on them and says how good it is.

    Use it where the features are given (a pretrained network that stays as it is)
    and what comes after them should be small, or where many heads share one
    extractor. Features are computed once, so an epoch costs what the head costs.

    Source: linear probes and prediction heads as in Kornblith et al., "Do Better
    ImageNet Models Transfer Better?" (2019), with the soft labels of Hinton et al.
    (2015) where a larger head teaches.

    Args:
        extractor: built model from inputs to features.
        head: model from features to outputs, to be trained.
        train: `(x, y)` arrays.
        validation: `(x, y)` arrays, for the metrics.
        compile_and_fit: function of `(model, features, y)` that compiles and fits.
        teacher_head: a larger trained head to distil from; without one the head
            learns from the labels.

    Returns:
        A `HeadReport` with the deployable model.

    Raises:
        InvalidArgumentError: for an unbuilt extractor, or a head that does not fit
            the features.

    Example:

    ```python
    def fit(model, features, y):
        model.compile("adam", loss, metrics=["accuracy"])
        model.fit(features, y, epochs=20, verbose=0)

    result = compress_predictions(backbone, head, (x, y), (x_val, y_val), fit)
    print(result.to_markdown())
    result.model.save("deployed.keras")
    ```
    """
    require_built(extractor, "extract features")
    features, unseen = (extractor.predict(x, verbose=0) for x, _ in (train, validation))
    if not isinstance(features, np.ndarray):
        raise InvalidArgumentError(
            "The extractor gives several features.",
            received=f"{len(keras.tree.flatten(features))} outputs",
            expected="one output",
        )
    wanted = getattr(head, "input_shape", None)
    if wanted is not None and wanted[1:] != features.shape[1:]:
        raise InvalidArgumentError(
            "The head does not fit the features.",
            received=f"a head for {wanted[1:]}",
            expected=f"a head for {features.shape[1:]}",
        )
    learner = head
    if teacher_head is not None:
        learner = Distiller(teacher_head, head, "soft_labels")
    compile_and_fit(learner, features, train[1])
    metrics = _evaluate(learner, unseen, validation[1])
    theirs: dict[str, float] = {}
    if teacher_head is not None:
        theirs = _evaluate_like(learner, teacher_head, unseen, validation[1])
    inputs = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype), extractor.inputs[0]
    )
    outputs = head(extractor(inputs, training=False))
    return HeadReport(
        keras.Model(inputs, outputs, name=f"{extractor.name}_{head.name}"),
        head,
        metrics,
        theirs,
        head.count_params(),
        None if teacher_head is None else teacher_head.count_params(),
    )


def _evaluate(model: keras.Model, x: Any, y: Any) -> dict[str, float]:
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    return {name: float(value) for name, value in logs.items()}


def _evaluate_like(
    compiled: keras.Model, model: keras.Model, x: Any, y: Any
) -> dict[str, float]:
    """Returns the metrics of `compiled` for another model, which stays untouched."""
    copy = copy_model(model)
    copy.compile_from_config(compiled.get_compile_config())
    return _evaluate(copy, x, y)
