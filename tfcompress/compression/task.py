"""Task: what a model was trained for, to train and judge others alike."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import math
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.compression.data import Data, check_scored
from tfcompress.core.arguments import one_of
from tfcompress.core.copies import copy_model
from tfcompress.core.errors import InvalidArgumentError, one_line, warn
from tfcompress.core.graph import build, is_graph_model, output_names, trace
from tfcompress.core.inlining import inlined, unique_names
from tfcompress.core.select import warn_of_own_training
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.teachers.cache import cache_teacher
from tfcompress.exporters.keras_runner import KerasRunner
from tfcompress.exporters.runner import Runner
from tfcompress.layers import rule_of

_HIGHER = ("acc", "auc", "precision", "recall", "f1", "iou", "score", "r2", "dice")
_LOWER = ("loss", "error", "mse", "mae", "mape", "msle", "entropy", "hinge", "perplex")
_REGRESSION = ("mse", "mae", "squared", "absolute", "huber", "logcosh")
_SMALL_SHARE = 0.01  # of the rate that an optimizer has by default
_FEW_SAMPLES = 10_000
_LARGEST_BATCH = 4096
_SCORED_AT_ONCE = 1024
_LOOKED_AT = 64
_MADE_BY = ("tfcompress", "keras", "tensorflow")


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained for some epochs.

    Attributes:
        epochs: passes over the training data.
        learning_rate: where a cosine decay to zero begins.
        callbacks: Keras callbacks.
        teaching: arguments of a `Distiller` with the original as its teacher, or None.
        seed: of the order of samples.
        cache: directory for the teacher's outputs.
    """

    epochs: int
    learning_rate: float
    callbacks: list[keras.callbacks.Callback]
    teaching: dict[str, Any] | None
    seed: int
    cache: Path


class Task:
    """The data, the loss and the metrics of a compiled model.

    Args:
        model: the compiled and trained model; of a subclassed one, what its `call`
            does is what counts. It is not changed.
        train: as for `Data`.
        validation: likewise; the metric is measured on it.
        metric: name of a metric, or `(name, "max")` or `(name, "min")` where the name
            does not say what is better. None for the first compiled metric.
        batch_size: for arrays; None for that of the model's own `fit`, as far as this
            process knows it.
        learning_rate: with which training begins; None for the one that the model's own
            began with.

    Raises:
        InvalidArgumentError: if the model is not compiled or does not report the
            metric, the data cannot be used, or the metric of the model as it is is
            not a number.
    """

    def __init__(
        self,
        model: keras.Model,
        train: Any,
        validation: Any,
        metric: str | tuple[str, str] | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
    ):
        self._config = _compile_config(model)
        self.model = _as_graph(model)
        self._rate = learning_rate or _first_rate(model)
        warn_of_own_training(model, "compressed")
        usual = _usual_rate(self._optimizer())
        if learning_rate is None and self.learning_rate < _SMALL_SHARE * usual:
            warn(
                f"The learning rate of the optimizer is {self.learning_rate:.1e}, with "
                "which candidates would learn next to nothing: a schedule of the "
                "training may have left it there. Pass the rate that the training "
                "began with, `search=Search(learning_rate=...)`."
            )
        self.train = Data("train", train, batch_size or 1, self.model)
        if batch_size is None:
            batch_size = _batch_size_of(model, self.train)
            self.train.batch_size = batch_size
        self.validation = Data("validation", validation, batch_size, self.model)
        inputs, _ = self.train.head(1)
        self._check_labels()
        self._reference = KerasRunner(self.model)
        self._scorer = self._make_scorer(self.model(inputs, training=False))
        for data in (self.train, self.validation):
            check_scored(data, lambda batches: self.score(self._reference, batches))
        self.scores = self.evaluate(self._reference)
        self.metric, self.higher_is_better = _chosen(metric, self.scores)
        self.baseline = self.scores[self.metric]
        if not math.isfinite(self.baseline):
            raise InvalidArgumentError(
                f"The metric '{self.metric}' of the model as it is is not a number.",
                received=f"{self.metric}={self.baseline} on the validation data",
                expected="a trained model",
                fix="go back to a checkpoint from before the training diverged, and "
                "look for NaN in the validation data",
            )

    def _check_labels(self) -> None:
        """Raises for numbers of classes that the model does not have."""
        loss, outputs = self._config["loss"], self.model.outputs
        sparse = "sparsecategorical" in str(loss).lower().replace("_", "")
        config = loss.get("config") if isinstance(loss, dict) else None
        # Of a function of the user's, it is a name.
        arguments = config if isinstance(config, dict) else {}
        ignores = arguments.get("ignore_class") is not None
        if not sparse or ignores or len(outputs) != 1:
            return
        classes = outputs[0].shape[-1]
        for data in (self.train, self.validation):
            if not data.in_memory:
                continue
            labels = np.asarray(data.given[1], "float64")
            if classes and not ((labels >= 0) & (labels < classes)).all():
                raise InvalidArgumentError(
                    f"The labels of `{data.name}` are not classes of the model.",
                    received=f"labels from {labels.min():g} to {labels.max():g}",
                    expected=f"0 to {classes - 1}, as output "
                    f"'{output_names(self.model)[0]}' has {classes} values",
                )

    @property
    def learning_rate(self) -> float:
        """The rate with which the model's training began."""
        return self._rate or float(self._optimizer().learning_rate)

    @functools.cached_property
    def teaches(self) -> str:
        """What the model's outputs are, for a student that learns from them.

        "logits" or "probabilities" of classes, "binary" probabilities, numbers
        ("regression"), or "nothing" that there is a loss for.
        """
        said = keras.tree.flatten(self._reference(self.samples(_LOOKED_AT)))
        loss = str(self._config["loss"]).lower()
        if len(said) != 1 or said[0].ndim < 2:
            return "nothing"
        (values,) = said
        probable = bool((values >= 0).all() and (values <= 1).all())
        if "categorical" in loss or "sparse" in loss:
            sums_to_one = probable and np.allclose(values.sum(-1), 1, atol=0.02)
            return "probabilities" if sums_to_one else "logits"
        if "binary" in loss:
            return "binary" if probable else "nothing"
        return "regression" if any(name in loss for name in _REGRESSION) else "nothing"

    def copy(self) -> keras.Model:
        """Returns a model with the same weights that may be trained."""
        try:
            return copy_model(self.model)
        except Exception as error:
            raise InvalidArgumentError(
                f"The model '{self.model.name}' cannot be copied, and compress does "
                "not train the one it was given.",
                received=one_line(error),
                expected="layers that get_config() and from_config() rebuild",
            ) from error

    def samples(self, count: int) -> Any:
        """Returns inputs from all over the training data."""
        return self.train.sample(count)[0]

    def evaluate(self, predict: Callable[[Any], Any]) -> dict[str, float]:
        """Returns the compiled loss and metrics on the validation data.

        Args:
            predict: a `Runner`, or a function from inputs to the model's outputs.
        """
        return self.score(predict, self.validation.batches())

    def score(
        self, predict: Callable[[Any], Any], batches: Iterable[tuple]
    ) -> dict[str, float]:
        """Returns the compiled loss and metrics on batches `(x, y, sample_weight)`."""
        outputs, labels, weights = [], [], []
        for x, y, weight in batches:
            outputs.append(self._in_order(predict(x), predict))
            labels.append(y)
            weights.append(weight)
        scores = self._scorer.evaluate(
            [np.concatenate(column) for column in zip(*outputs)],
            keras.tree.map_structure(lambda *a: np.concatenate(a), *labels),
            sample_weight=None if weights[0] is None else np.concatenate(weights),
            batch_size=_SCORED_AT_ONCE,
            verbose=0,
            return_dict=True,
        )
        return {name: float(value) for name, value in scores.items()}

    def fit(self, model: keras.Model, training: Training) -> dict[str, list[float]]:
        """Trains `model` in place with the task's loss; returns the history."""
        trained, teach = model, None
        if training.teaching is not None:
            trained = Distiller(self.model, model, **training.teaching)

            def teach(batches: Any) -> Any:
                return cache_teacher(self.model, batches, training.cache)

        data, how = self.train.for_fit(training.seed, teach)
        optimizer = self._optimizer()
        optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(
            training.learning_rate, self.train.steps * training.epochs
        )
        trained.compile(optimizer=optimizer, **self._judgement())
        history = trained.fit(
            data,
            epochs=training.epochs,
            callbacks=training.callbacks,
            verbose=0,
            **how,
        )
        return {
            name: [float(value) for value in values]
            for name, values in history.history.items()
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of weights, arguments of compile and all of the data."""
        versions = [importlib.metadata.version(name) for name in _MADE_BY]
        digest = hashlib.sha256(repr((self._config, versions)).encode())
        for weight in self.model.weights:
            digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
        for data in (self.train, self.validation):
            digest.update(f"{data.count} {data.batch_size}".encode())
            digest.update(data.fingerprint.encode())
        return digest.hexdigest()[:16]

    def _in_order(self, said: Any, predict: Any) -> list[np.ndarray]:
        if isinstance(predict, Runner) and isinstance(said, dict):
            names = [info.name for info in self._reference.outputs]
            if sorted(said) != sorted(names):
                names = [info.name for info in predict.outputs]
            return [said[name] for name in names]
        return [np.asarray(leaf) for leaf in keras.tree.flatten(said)]

    def _make_scorer(self, outputs: Any) -> keras.Model:
        """Returns a model that passes outputs on, compiled with the task's metrics."""
        flat = keras.tree.flatten(outputs)
        names = getattr(self.model, "output_names", None) or []
        if len(names) != len(flat):
            names = [f"output_{position}" for position in range(len(flat))]
        inputs = [keras.Input(leaf.shape[1:]) for leaf in flat]
        same = [
            keras.layers.Identity(name=name, dtype="float32")(one)
            for name, one in zip(names, inputs)
        ]
        scorer = keras.Model(inputs, keras.tree.pack_sequence_as(outputs, same))
        scorer.compile(**{**self._judgement(), "jit_compile": False})
        return scorer

    def _optimizer(self) -> keras.optimizers.Optimizer:
        return keras.saving.deserialize_keras_object(self._config["optimizer"])

    def _judgement(self) -> dict[str, Any]:
        """Returns fresh arguments of `compile`, without the optimizer."""
        rest = {k: v for k, v in self._config.items() if k != "optimizer"}
        return keras.saving.deserialize_keras_object(rest)


def _first_rate(model: keras.Model) -> float | None:
    """Returns the rate of the first epoch of the model's last `fit`, if it is known.

    Callbacks that change the rate say so in the history, and leave the optimizer with
    the last one.
    """
    history = getattr(getattr(model, "history", None), "history", None) or {}
    rates = history.get("learning_rate")
    went_on = int(model.optimizer.iterations) > 0  # and not compiled anew since
    return float(max(rates)) if rates and went_on else None


def _usual_rate(optimizer: keras.optimizers.Optimizer) -> float:
    try:
        return float(type(optimizer)().learning_rate)
    except Exception:  # an optimizer of the user's, which takes arguments
        return 0.0


def _batch_size_of(model: keras.Model, train: Data) -> int:
    """Returns the batch size of the model's last `fit`, if that was on as much data."""
    params = getattr(getattr(model, "history", None), "params", None) or {}
    steps = params.get("steps") or 0
    if 1 < steps < train.count:
        # All of these make as many steps; the roundest is the likeliest.
        least, above = (math.ceil(train.count / n) for n in (steps, steps - 1))
        sizes = [b for b in range(least, above) if b < 10 or b % 8 == 0 or b % 10 == 0]
        if sizes and sizes[0] <= _LARGEST_BATCH:
            return max(sizes, key=lambda size: (size & -size, -size))
    return 32 if train.count < _FEW_SAMPLES else 128


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds Python, NumPy and TensorFlow; the first two go on as before after it."""
    python, numpy = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _chosen(
    metric: str | tuple[str, str] | None, scores: dict[str, float]
) -> tuple[str, bool]:
    """Returns the name of the metric, and whether higher is better."""
    direction = None
    if isinstance(metric, (tuple, list)):
        metric, direction = metric
    if metric is None:
        metric = next((n for n in scores if not n.endswith("loss")), "loss")
    problem = "The model does not report the metric."
    expected = f"one of {', '.join(map(repr, scores))}"
    one_of(metric, problem, scores, expected, "compile the model with that metric")
    if direction is None:
        directions = (("min", _LOWER), ("max", _HIGHER))
        found = (d for d, words in directions if any(w in metric for w in words))
        direction = next(found, None)
    if direction not in ("max", "min"):
        raise InvalidArgumentError(
            f"Is a higher '{metric}' better, or a lower one?",
            received=f"metric={metric!r}, direction {direction!r}",
            expected=f"metric=({metric!r}, 'max') or ({metric!r}, 'min')",
        )
    return metric, direction == "max"


def _compile_config(model: keras.Model) -> dict[str, Any]:
    if not isinstance(model, keras.Model) or not model.compiled:
        name = getattr(model, "name", type(model).__name__)
        raise InvalidArgumentError(
            "The model is not compiled, so its loss and metric are not known.",
            received=f"'{name}'",
            expected="a compiled and trained keras.Model",
            fix="call model.compile(optimizer, loss, metrics=[...])",
        )
    try:
        config = model.get_compile_config()
        keras.saving.deserialize_keras_object(config)
    except Exception as error:
        raise InvalidArgumentError(
            "The arguments of compile cannot be used for another model.",
            received=one_line(error),
            expected="an optimizer, losses and metrics that Keras can save",
            fix="register your own with keras.saving.register_keras_serializable",
        ) from error
    if not config or config.get("loss") is None:
        raise InvalidArgumentError(
            "The model is compiled without a loss, so it cannot be fine-tuned.",
            received=f"model '{model.name}'",
            expected="model.compile(optimizer, loss, metrics=[...])",
        )
    return config


def _as_graph(model: keras.Model) -> keras.Model:
    """Returns the model, or what the `call` of a subclassed one does as a graph."""
    if is_graph_model(model):
        return model
    purpose = "compress the model"
    with unique_names(model):
        known = inlined(model, lambda layer: rule_of(layer) is not None, purpose)
        return build(trace(known, purpose))
