"""Both models on the same samples: inputs by name, outputs as probabilities."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.arrays import is_array
from tfcompress.core.data import columns_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.export import load
from tfcompress.exporters.keras_runner import KerasRunner
from tfcompress.exporters.runner import Runner

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """How the outputs of a classifier are to be read.

    Attributes:
        kind: "logits" or "probabilities".
        classes: how many classes there are; one output value stands for two.
        binary: whether there is only one output value.
    """

    kind: str
    classes: int
    binary: bool

    @classmethod
    def of(cls, values: np.ndarray, from_logits: bool | None, step: float) -> Outputs:
        """Tells logits from probabilities: those lie in [0, 1] and add up to 1.

        Args:
            values: outputs of shape `(n, classes)` or `(n, 1)`.
            from_logits: what is known; None finds out.
            step: how coarsely each value is rounded.
        """
        classes = values.shape[1]
        if from_logits is None:
            shares = bool(np.all((values >= 0) & (values <= 1)))
            slack = 0.01 + classes * step
            ones = classes == 1 or np.allclose(values.sum(1), 1, rtol=0, atol=slack)
            from_logits = not (shares and ones)
        kind = "logits" if from_logits else "probabilities"
        return cls(kind, max(classes, 2), classes == 1)

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        """Returns outputs as float64 probabilities of shape `(n, classes)`."""
        values = values.astype("float64")
        if self.kind == "logits":
            if self.binary:
                values = np.concatenate([np.zeros_like(values), values], axis=1)
            values = np.exp(values - values.max(axis=1, keepdims=True))
        elif self.binary:
            values = np.concatenate([1 - values, values], axis=1)
        return values / np.maximum(values.sum(axis=1, keepdims=True), 1e-300)

    def scores(self, output: Any, normalized: bool) -> Any:
        """Returns a tensor of scores `(n, classes)` that gradients can be taken of.

        Args:
            output: the model's output, a tensor.
            normalized: whether logits are to become log-probabilities.
        """
        output = ops.cast(output, "float32")
        if self.kind == "probabilities":
            if self.binary:
                output = ops.concatenate([1 - output, output], axis=-1)
            return ops.log(ops.maximum(output, 1e-12))
        if self.binary:
            output = ops.concatenate([-output / 2, output / 2], axis=-1)
        return ops.log_softmax(output, axis=-1) if normalized else output


class Subject:
    """One of the two models.

    Args:
        given: a Keras model, a `Runner`, an `Artifact` or the path of one.
        role: "original" or "compressed", for messages.
        inputs: samples, from which the inputs of a subclassed model are known.
        error: what to raise where its outputs cannot be used.
    """

    def __init__(
        self, given: Any, role: str, inputs: Any, error: type = InvalidArgumentError
    ):
        self.role, self._error = role, error
        self.model = given if isinstance(given, keras.Model) else None
        self.signature = None if self.model is None else _signature(self.model, inputs)
        self.runner: Runner
        if isinstance(given, Runner):
            self.runner = given
        elif self.model is not None:
            self.runner = KerasRunner(self.model, self.signature)
        elif isinstance(given, str | os.PathLike):  # an Artifact is a path too
            self.runner = load(given)
        else:
            raise InvalidArgumentError(
                f"`{role}` is nothing that can be run.",
                received=type(given).__name__,
                expected="a keras.Model, an Artifact or its path, or a Runner",
            )
        self.name = given.name if isinstance(given, Artifact) else self.runner.name
        if len(self.runner.outputs) != 1:
            raise InvalidArgumentError(
                f"The {role} model has several outputs.",
                received=", ".join(info.name for info in self.runner.outputs),
                expected="one output: a score for each class",
                fix="make a keras.Model of its inputs and the output to compare",
            )
        self._outputs: Outputs | None = None

    @property
    def outputs(self) -> Outputs:
        """How its outputs are read, which `start` has found out."""
        assert self._outputs is not None
        return self._outputs

    def start(self, columns: Columns, from_logits: bool | None) -> np.ndarray:
        """Runs all samples and finds out what the outputs mean.

        Returns:
            Probabilities, one row for each sample.
        """
        return self._started(self._values(columns), from_logits)

    def accuracy(self, columns: Columns, labels: Any) -> float:
        """Returns the share of answers that are right.

        Args:
            columns: all samples.
            labels: class numbers or one-hot rows, for each sample or, where the model
                judges pixels or steps, for each of those.

        Raises:
            InvalidArgumentError: if they are no classes of what the model puts out.
        """
        values, array = self._scores(columns), _array(labels)
        positions = values.shape[:-1]
        if array.shape[: len(positions)] != positions:
            _refuse(
                "Labels have the wrong shape.",
                f"shape {array.shape}",
                f"class numbers of shape {positions}, or one-hot rows of these",
            )
        # Whatever is behind the positions are rows, or a last axis of size 1.
        array = array.reshape(-1, *array.shape[len(positions) :])
        shares = self._started(values.reshape(-1, values.shape[-1]), None)
        numbers = class_numbers(array, len(shares), self.outputs.classes)
        return float(np.mean(shares.argmax(axis=1) == numbers))

    def probabilities(self, columns: Columns) -> np.ndarray:
        """Returns probabilities, one row for each sample."""
        return self.outputs.probabilities(self._values(columns))

    def columns(self, columns: Columns) -> Columns:
        """Returns samples under the names that this model's inputs have."""
        names = [info.name for info in self.runner.inputs]
        if len(names) != len(columns):
            raise InvalidArgumentError(
                "The two models differ in their inputs.",
                received=f"{self.role} with {', '.join(names)}",
                expected=", ".join(columns),
                fix="compare a compressed model with the one that it was made from",
            )
        return (
            columns
            if set(names) == set(columns)
            else dict(zip(names, columns.values()))
        )

    def _started(self, rows: np.ndarray, from_logits: bool | None) -> np.ndarray:
        (info,) = self.runner.outputs
        # Outputs of steps are rounded, and so is their sum.
        self._outputs = Outputs.of(rows, from_logits, info.step or info.scale or 0.0)
        return self._outputs.probabilities(rows)

    def _values(self, columns: Columns) -> np.ndarray:
        values = self._scores(columns)
        if values.ndim != 2:
            self._refuse_outputs(values, len(values))
        return values

    def _scores(self, columns: Columns) -> np.ndarray:
        """Returns outputs of shape `(n, ..., classes)`."""
        (values,) = self.runner.run(self.columns(columns)).values()
        count = len(next(iter(columns.values())))
        if values.ndim < 2 or len(values) != count:
            self._refuse_outputs(values, count)
        broken = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if broken.any():
            raise self._error(
                f"The {self.role} model {self.name!r} gives NaN or infinite outputs.",
                received=f"{int(broken.sum())} of {count} samples, the first of them "
                f"{int(np.argmax(broken))}",
                expected="finite scores",
                fix="look at the inputs, or find the layer with `verify`",
            )
        return values

    def _refuse_outputs(self, values: np.ndarray, count: int) -> None:
        raise InvalidArgumentError(
            f"The {self.role} model is no classifier of samples.",
            received=f"outputs of shape {values.shape}",
            expected=f"a score for each class, shape ({count}, classes)",
            fix="for regression and sequences use `verify`, which compares values",
        )


def accuracy(subject: Any, inputs: Any, labels: Any) -> float:
    """Returns the share of samples, pixels or steps that a classifier gets right.

    One column of outputs is read as `trust` reads it: a logit, or a probability.

    Args:
        subject: a Keras model, an artifact or a `Runner`.
        inputs: samples, as for `trust`.
        labels: class numbers or one-hot rows, for each sample, pixel or step.

    Raises:
        InvalidArgumentError: if the outputs are no scores of classes, or the labels no
            classes.

    Example:

    >>> layers = [keras.Input((1,)), keras.layers.Activation("sigmoid")]
    >>> x = np.array([[-2.0], [1.0], [3.0], [4.0]])
    >>> accuracy(keras.Sequential(layers), x, [0, 1, 0, 1])
    0.75
    """
    judge = Subject(subject, "reported", inputs)
    return judge.accuracy(columns_of(inputs, judge.runner.inputs), labels)


def class_numbers(labels: Any, count: int, classes: int) -> np.ndarray:
    """Returns labels as class numbers of shape `(n,)`; one-hot rows are read too.

    Raises:
        InvalidArgumentError: if they are no labels of `count` samples.
    """
    if labels is None:
        _refuse(
            "There are no labels.", "None", "class numbers, or rows that are one-hot"
        )
    array = _array(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1] == classes:
        if not ((array == 0) | (array == 1)).all() or not (array.sum(1) == 1).all():
            _refuse(
                "Rows of labels are not one-hot.",
                f"rows such as {array[0].tolist()}",
                "a single 1 in each row; several labels a sample are not supported",
            )
        array = array.argmax(axis=1)
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        _refuse(
            "Labels have the wrong shape or type.",
            f"shape {array.shape}, {array.dtype}",
            f"class numbers of shape ({count},), or one-hot ({count}, {classes})",
        )
    if len(array) != count:
        _refuse(
            "There are not as many labels as samples.",
            f"{len(array)} labels",
            f"{count}, one for each sample",
        )
    numbers = np.where(np.isfinite(array), array, -1).astype("int64")
    wrong = (numbers != array) | (numbers < 0) | (numbers >= classes)
    if wrong.any():
        place = int(np.argmax(wrong))
        _refuse(
            "A label is no class of this model.",
            f"{array[place]} for sample {place}",
            f"whole numbers from 0 to {classes - 1}; for regression use `verify`",
        )
    return numbers


def _array(labels: Any) -> np.ndarray:
    if isinstance(labels, tuple | dict):
        _refuse(
            "Labels are not one array.",
            f"a {type(labels).__name__} of {len(labels)}",
            "class numbers, or rows that are one-hot",
        )
    return np.asarray(labels.numpy() if hasattr(labels, "numpy") else labels)


def _refuse(problem: str, received: str, expected: str) -> None:
    raise InvalidArgumentError(problem, received=received, expected=expected)


def _signature(model: keras.Model, inputs: Any) -> Any:
    """Returns what a subclassed model is called with; None if it says so itself."""
    if getattr(model, "inputs", None):
        return None
    if not all(map(is_array, keras.tree.flatten(inputs))):
        raise InvalidArgumentError(
            f"Model {model.name!r} does not say what its inputs look like.",
            received=f"a subclassed model, and inputs in a {type(inputs).__name__}",
            expected="an array, or a list or dict of arrays, as the model is called",
        )

    def spec(value: Any) -> keras.InputSpec:
        array = np.asarray(value)
        kind = "float32" if array.dtype.kind == "f" else array.dtype.name
        return keras.InputSpec(shape=(None, *array.shape[1:]), dtype=kind)

    return keras.tree.map_structure(spec, inputs)
