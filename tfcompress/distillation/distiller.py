"""The model that teaches: fit trains the student, the teacher only answers."""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.backend import require_tensorflow
from tfcompress.core.registry import PACKAGE
from tfcompress.distillation import validation
from tfcompress.distillation.features import Recorder, layer_names, names_in, pick
from tfcompress.distillation.teachers.cache import (
    ask_teacher,
    split_cached,
    teacher_fingerprint,
)
from tfcompress.distillation.terms import LogitsDistillation, distillation_term
from tfcompress.distillation.weighting import STEP, now


@dataclasses.dataclass
class _Frozen:
    """Holds the teacher where Keras does not look for layers to train."""

    teacher: Any
    preprocessing: Any
    fingerprint: str = ""


@dataclasses.dataclass
class _Step:
    """What one training step knows besides the student's predictions."""

    owner: Any
    teacher: tuple[Any, dict[str, Any]]
    student: dict[str, Any] | None = None


# A context variable, because every replica runs its step in a thread of its own.
_STEP: contextvars.ContextVar[_Step | None] = contextvars.ContextVar(
    "tfcompress_distillation_step", default=None
)


@keras.saving.register_keras_serializable(package=PACKAGE)
class Distiller(keras.Model):
    """A model that trains a student on labels and on a teacher's outputs.

    Use it where a small model should come close to a large one: it is compiled
    and fitted like the student, takes the losses of `keras.distillation`, and
    `distiller.student` is the result. Sample and class weights count in every
    term, the student's regularizers are added, losses are computed in float32
    under every dtype policy, and both models run exactly once per step. `predict`,
    `evaluate` and calling it are the student's. The teacher is never changed.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network"
    (2015). With the compiled loss L, distillation losses D_i and the student's
    regularization R, the minimized loss is

    `a * L(y, student(x)) + (1 - a) * sum_i w_i * D_i(teacher(x), student(x)) + R`.

    `fit` logs `loss` (all of it), `student_loss` (L + R: what `student.fit` would
    log as its loss) and `distillation_loss` (the sum over i). `evaluate` returns
    the loss and metrics of the student; only a distiller compiled without a loss
    returns the distillation loss.

    Args:
        teacher: a trained `keras.Model` or layer. It runs in inference mode. `None`
            where the student itself teaches all losses (`deep_supervision`).
        student: the `keras.Model` to train.
        distillation_losses: a `keras.distillation.DistillationLoss`, the name of one of
            `tfcompress.distillation.losses`, a list of these, or a dict of them by
            output name. Layers are given by name or path ("backbone/conv1") and may be
            in nested and subclassed models. Your own loss should return one value per
            sample, or take `sample_weight`; one that only returns a scalar is evaluated
            sample by sample when there are weights. To be saved it needs `get_config`
            and `from_config`.
        distillation_loss_weights: list (or dict) of floats >= 0, w_i above. Defaults to
            each loss's `default_weight`: 1 for most, and the weight from its paper for
            those whose values are small.
        student_loss_weight: float in [0, 1], a above. With 0 no labels and no
            compiled loss are needed; with 1 the teacher does not run. This, the
            weights and the temperature of losses may be schedules of
            `keras.optimizers.schedules`, which count the optimizer's steps.
        name: name of the model.
        teacher_preprocessing: layer or function from the student's input to the
            teacher's, for teachers that see another size or range. Functions must
            be registered with Keras to be saved.
        **kwargs: passed to `keras.Model`.

    Raises:
        InvalidArgumentError: for models that share weights or do not fit
            together, for probabilities where logits are needed, for a teacher
            with NaN weights (when training starts), and for arguments outside
            their ranges.

    Example:

    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> loss = keras.distillation.LogitsDistillation(temperature=2.0)
    >>> distiller = Distiller(teacher, student, loss)
    >>> distiller.compile("sgd", "mse")
    >>> history = distiller.fit(ops.ones((8, 4)), ops.ones((8, 3)), verbose=0)
    >>> sorted(history.history)
    ['distillation_loss', 'loss', 'student_loss']
    """

    def __init__(
        self,
        teacher: Any,
        student: Any,
        distillation_losses: Any,
        distillation_loss_weights: Any = None,
        student_loss_weight: Any = 0.5,
        name: str = "distiller",
        teacher_preprocessing: Callable | None = None,
        **kwargs: Any,
    ):
        require_tensorflow("distil")
        validation.check_models(teacher, student)
        # The student's policy decides about loss scaling; no casting of our own,
        # so that both models see the input as they would by themselves.
        kwargs.setdefault("dtype", student.dtype_policy)
        super().__init__(name=name, autocast=False, **kwargs)
        losses, distillation_loss_weights = validation.as_lists(
            distillation_losses, distillation_loss_weights
        )
        self.student = student
        self.student_loss_weight = validation.check_share(student_loss_weight)
        self.distillation_losses = losses
        self.distillation_loss_weights = validation.check_weights(
            distillation_loss_weights, losses
        )
        self._frozen = _Frozen(teacher, teacher_preprocessing)
        if teacher_preprocessing is None:
            validation.check_inputs(teacher, student)
        for loss in losses:
            self._check_loss(loss)
        self._teacher_recorder = Recorder(
            teacher, layer_names(losses, "teacher_layer_name")
        )
        self._asks_teacher = not all(map(_taught_by_student, losses))
        self._student_recorder = Recorder(
            student, layer_names(losses, "student_layer_name")
        )
        self.student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        if student.built:
            self.built = True

    @property
    def teacher(self) -> Any:
        """The teacher, as it was given. Its variables are not the distiller's."""
        return self._frozen.teacher

    @property
    def teacher_preprocessing(self) -> Any:
        """What turns the student's input into the teacher's, or `None`."""
        return self._frozen.preprocessing

    @property
    def layers(self) -> list[keras.Layer]:
        # Callbacks that prune or cluster look here: losses may have layers too, but
        # only the student is there to be compressed.
        return [self.student]

    @property
    def output_names(self) -> list[str]:
        # Keras matches dicts of losses and metrics to outputs by these names.
        return self.student.output_names

    def build(self, input_shape: Any = None) -> None:
        # A student that does not know its shapes yet is built by its first call.
        pass

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        inputs, _ = split_cached(inputs)
        step = _STEP.get()
        if step is None or step.owner is not self:
            return self.student(inputs, training=training)
        outputs, step.student = self._student_recorder.run(inputs, training=training)
        return outputs

    def make_train_function(self, force: bool = False) -> Any:
        # Every fit comes through here, after weights were loaded and before a step.
        validation.check_teacher_is_finite(self.teacher)
        if self.teacher is not None:
            self._frozen.fingerprint = teacher_fingerprint(self.teacher)
        return super().make_train_function(force=force)

    def train_step(self, data: Any) -> Any:
        data, x, cached = _unpack(data)
        if self.student_loss_weight == 1.0:
            return super().train_step(data)
        # Before the gradient tape opens: nothing of the teacher is recorded.
        if cached is not None:
            frozen = self._frozen
            validation.check_cached(
                cached.fingerprint, frozen.teacher, frozen.fingerprint
            )
        answers = self._ask_teacher(x) if cached is None else cached[:2]
        token = _STEP.set(_Step(self, answers))
        try:
            return super().train_step(data)
        finally:
            _STEP.reset(token)

    def test_step(self, data: Any) -> Any:
        logs = super().test_step(_unpack(data)[0])
        # The student alone has no such losses, and nothing was measured.
        for tracker in (self.student_loss_tracker, self.distillation_loss_tracker):
            logs.pop(tracker.name, None)
        return logs

    def predict_step(self, data: Any) -> Any:
        return super().predict_step(_unpack(data)[0])

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the loss above in training, the student's loss otherwise."""
        share = self.student_loss_weight
        supervised = self.loss is not None and y is not None
        if not supervised and share != 0.0:
            validation.refuse_no_labels(self.loss is not None, share)
        student_loss = None
        if supervised:
            student_loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            if not training:
                return student_loss
        token = STEP.set(getattr(self.optimizer, "iterations", 0))
        try:
            share = now(share)
            distillation = ops.zeros((), "float32")
            if self.student_loss_weight != 1.0:
                given = sample_weight, y
                distillation = self._distillation_loss(x, y_pred, given, training)
        finally:
            STEP.reset(token)
        # The student's loss above includes its regularization R. Adding R to the
        # other side too makes a * (L + R) + (1 - a) * (D + R) = aL + (1 - a)D + R.
        total = distillation
        for extra in self.losses:
            total = total + ops.sum(ops.cast(extra, "float32"))
        if student_loss is not None and self.student_loss_weight != 0.0:
            student_loss = ops.cast(student_loss, "float32")
            total = share * student_loss + (1.0 - share) * total
        if training:
            self._track(x, student_loss, distillation)
        return total

    def _distillation_loss(
        self, x: Any, y_pred: Any, given: tuple, training: bool
    ) -> Any:
        step = _STEP.get()
        if step is None or step.owner is not self:
            step = _Step(self, self._ask_teacher(x))
        if step.student is None:
            y_pred, step.student = self._student_recorder.run(x, training=training)
        answers, hints = step.teacher
        own = keras.tree.map_structure(ops.stop_gradient, y_pred)
        total = ops.zeros((), "float32")
        for loss, weight in zip(
            self.distillation_losses, self.distillation_loss_weights
        ):
            said = own if _taught_by_student(loss) else answers
            theirs = pick(loss, "teacher_layer_name", said, hints)
            ours = pick(loss, "student_layer_name", y_pred, step.student)
            term = distillation_term(loss, theirs, ours, *given)
            total = total + now(weight) * term
        return total

    def _ask_teacher(self, x: Any) -> tuple[Any, dict[str, Any]]:
        if not self._asks_teacher:
            return None, {}
        return ask_teacher(self._teacher_recorder, self.teacher_preprocessing, x)

    def _track(self, x: Any, student_loss: Any, distillation_loss: Any) -> None:
        strategy = getattr(self, "distribute_strategy", None)
        # Losses are divided by the number of replicas because gradients are
        # summed over them; logs are means over replicas.
        replicas = getattr(strategy, "num_replicas_in_sync", 1)
        batch = ops.shape(keras.tree.flatten(x)[0])[0]
        if student_loss is not None:
            self.student_loss_tracker.update_state(student_loss * replicas, batch)
        self.distillation_loss_tracker.update_state(distillation_loss * replicas, batch)

    def _check_loss(self, loss: Any) -> None:
        teacher = self.teacher
        if _taught_by_student(loss):
            teacher = self.student
        elif teacher is None:
            validation.refuse_no_teacher(loss)
        if type(loss) is not keras.distillation.FeatureDistillation:
            # Keras' own check refuses layers of nested and subclassed models.
            loss.validate_model_compatibility(teacher, self.student)
        if not names_in(loss, "teacher_layer_name") and not names_in(
            loss, "student_layer_name"
        ):
            validation.check_outputs(teacher, self.student, loss)
        if getattr(loss, "needs_logits", isinstance(loss, LogitsDistillation)):
            validation.check_logits(teacher, "teacher", loss)
            validation.check_logits(self.student, "student", loss)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "teacher": serialize(self.teacher),
            "student": serialize(self.student),
            "distillation_losses": [
                serialize(validation.saveable(x)) for x in self.distillation_losses
            ],
            "distillation_loss_weights": [
                serialize(weight) for weight in self.distillation_loss_weights
            ],
            "student_loss_weight": serialize(self.student_loss_weight),
            "teacher_preprocessing": serialize(self.teacher_preprocessing),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Distiller:
        config = {
            key: [keras.saving.deserialize_keras_object(x) for x in value]
            if isinstance(value, list)
            else keras.saving.deserialize_keras_object(value)
            for key, value in config.items()
        }
        return cls(**config)


def _taught_by_student(loss: Any) -> bool:
    return getattr(loss, "taught_by_student", False)


def _unpack(data: Any) -> tuple[Any, Any, Any]:
    """Returns plain data, its x, and the teacher's outputs if they came along."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    x, cached = split_cached(x)
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight), x, cached
