"""One distillation loss as one number: float32, weighted by sample, masked.

Keras computes a distillation loss as a plain mean. Here every loss goes through
`keras.losses.Loss`, which knows about sample weights, masks and replicas, so a
distillation term is reduced exactly as the student's own loss is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.errors import InvalidArgumentError

LogitsDistillation = keras.distillation.LogitsDistillation
FeatureDistillation = keras.distillation.FeatureDistillation


class _Reduced(keras.losses.Loss):
    """A function of `(teacher, student)` with the reduction of a Keras loss."""

    def __init__(self, function: Callable, reduction: str | None = None):
        # Keras' distillation takes the mean of whatever a loss returns.
        if reduction in (None, "none"):
            reduction = "sum_over_batch_size"
        super().__init__("distillation", reduction, "float32")
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


def distillation_term(
    loss: Any, teacher: Any, student: Any, sample_weight: Any = None
) -> Any:
    """Returns the value of one distillation loss for one batch.

    Args:
        loss: a `keras.distillation.DistillationLoss`.
        teacher, student: tensors, or equal structures of tensors, of shape
            `(batch, ...)` and any float dtype.
        sample_weight: `None`, a tensor of shape `(batch,)` or `(batch, steps)`, or
            one such tensor for each output.

    Returns:
        A float32 scalar: the weighted mean over the batch (the sum of weighted
        losses divided by the number of samples, as in `keras.losses`), divided by
        the number of replicas if there are several.
    """
    compute = type(loss).compute_loss
    if compute is LogitsDistillation.compute_loss:
        temperature = float(loss.temperature)
        return _sum_over_outputs(
            loss,
            lambda fn: _logits_function(fn, temperature),
            (teacher, student),
            sample_weight,
        )
    if compute is FeatureDistillation.compute_loss:
        return _sum_over_outputs(
            loss, _plain_function, (teacher, student), sample_weight
        )
    return _user_term(loss, teacher, student, sample_weight)


def _sum_over_outputs(
    loss: Any, make: Callable, outputs: tuple[Any, Any], sample_weight: Any
) -> Any:
    teacher, student = outputs
    functions = loss.loss
    if not keras.tree.is_nested(functions):
        functions = keras.tree.map_structure(lambda _: functions, student)
    flat = keras.tree.flatten(functions)
    _require_outputs(loss, flat, teacher, student)
    weights = weights_per_output(sample_weight, len(flat))
    total = ops.zeros((), "float32")
    for function, t, s, weight in zip(
        flat, keras.tree.flatten(teacher), keras.tree.flatten(student), weights
    ):
        if function is None:
            continue
        _require_same_shape(loss, t, s)
        if len(s.shape) == 1:
            # Keras losses reduce the last axis, which here is the batch.
            t, s = ops.expand_dims(t, -1), ops.expand_dims(s, -1)
        reduce = _Reduced(make(function), getattr(function, "reduction", None))
        total = total + reduce(t, s, align_weight(weight, s.shape[:-1]))
    return total


def _plain_function(function: Any) -> Callable:
    return function.call if isinstance(function, keras.losses.Loss) else function


def _logits_function(function: Any, temperature: float) -> Callable:
    """Returns `function` of logits softened by `temperature`.

    Keras compares raw logits unless it is given a `KLDivergence` *instance*; the
    name "kl_divergence" (its default) means a function there and is applied to
    logits that are not probabilities. Divergences and cross-entropies need
    probabilities: softmax(logits / T), scaled by T^2 (Hinton et al., 2015).
    """
    losses = keras.losses
    if function is losses.kl_divergence or isinstance(function, losses.KLDivergence):
        return lambda t, s: soft_divergence(t, s, temperature)
    if function is losses.categorical_crossentropy or isinstance(
        function, losses.CategoricalCrossentropy
    ):
        return lambda t, s: soft_cross_entropy(t, s, temperature)
    plain = _plain_function(function)
    return lambda t, s: plain(t / temperature, s / temperature)


def soft_cross_entropy(teacher: Any, student: Any, temperature: Any) -> Any:
    """Returns `-T^2 sum(softmax(t / T) log softmax(s / T))` over the last axis."""
    targets = ops.softmax(teacher / temperature, axis=-1)
    log_student = ops.log_softmax(student / temperature, axis=-1)
    return -ops.sum(targets * log_student, axis=-1) * temperature**2


def soft_divergence(teacher: Any, student: Any, temperature: Any) -> Any:
    """Returns `T^2 KL(softmax(t / T) || softmax(s / T))` over the last axis."""
    log_teacher = ops.log_softmax(teacher / temperature, axis=-1)
    log_student = ops.log_softmax(student / temperature, axis=-1)
    divergence = ops.exp(log_teacher) * (log_teacher - log_student)
    return ops.sum(divergence, axis=-1) * temperature**2


def _user_term(loss: Any, teacher: Any, student: Any, sample_weight: Any) -> Any:
    teacher = keras.tree.map_structure(float32, teacher)
    student = keras.tree.map_structure(float32, student)
    loss.validate_outputs(teacher, student)
    if accepts_sample_weight(loss):
        value = loss.compute_loss(teacher, student, sample_weight=sample_weight)
        sample_weight = None
    else:
        value = loss.compute_loss(teacher, student)
    rank = len(ops.shape(value))
    if sample_weight is not None and rank == 0:
        value = _per_sample(loss, teacher, student)
        rank = 1
    if rank == 0:
        value = ops.reshape(value, (1,))
    weight = None
    if sample_weight is not None:
        weight = align_weight(mean_weight(sample_weight), value.shape)
    # The values stand for both arguments: only the reduction is wanted.
    return _Reduced(lambda _, values: values)(value, value, weight)


def _per_sample(loss: Any, teacher: Any, student: Any) -> Any:
    """Returns a scalar loss evaluated on each sample as a batch of one."""

    def one(pair: Any) -> Any:
        t, s = keras.tree.map_structure(lambda x: ops.expand_dims(x, 0), pair)
        return loss.compute_loss(t, s)

    return ops.vectorized_map(one, (teacher, student))


def accepts_sample_weight(loss: Any) -> bool:
    """Returns whether `loss.compute_loss` has an argument `sample_weight`."""
    return "sample_weight" in inspect.signature(loss.compute_loss).parameters


def float32(tensor: Any) -> Any:
    """Returns `tensor` in float32, with its Keras mask if it has one."""
    mask = getattr(tensor, "_keras_mask", None)
    result = ops.cast(tensor, "float32")
    if mask is not None:
        result._keras_mask = mask
    return result


def weights_per_output(sample_weight: Any, count: int) -> list[Any]:
    """Returns one sample weight (or `None`) for each of `count` outputs."""
    if not keras.tree.is_nested(sample_weight):
        return [sample_weight] * count
    flat = keras.tree.flatten(sample_weight)
    if len(flat) == count:
        return flat
    return [mean_weight(flat)] * count


def mean_weight(sample_weight: Any) -> Any:
    """Returns one weight for a sample that has one for each output: their mean."""
    if not keras.tree.is_nested(sample_weight):
        return sample_weight
    flat = [w for w in keras.tree.flatten(sample_weight) if w is not None]
    return sum(align_weight(w, (None,)) for w in flat) / len(flat) if flat else None


def align_weight(weight: Any, shape: tuple[int | None, ...]) -> Any:
    """Returns `weight` with as many axes as `shape`, so that it broadcasts right.

    A weight for each sample counts for everything in the sample. A weight for
    each step that does not fit (the features have no such axis) counts with its
    mean over the steps.
    """
    if weight is None:
        return None
    weight = ops.cast(weight, "float32")
    rank = len(weight.shape)
    fits = rank <= len(shape) and all(
        None in (have, want) or have in (1, want)
        for have, want in zip(weight.shape[1:], shape[1:])
    )
    if not fits:
        weight, rank = ops.mean(weight, axis=tuple(range(1, rank))), 1
    for _ in range(len(shape) - rank):
        weight = ops.expand_dims(weight, -1)
    return weight


def _require_outputs(loss: Any, functions: list, teacher: Any, student: Any) -> None:
    counts = len(keras.tree.flatten(teacher)), len(keras.tree.flatten(student))
    if counts != (len(functions),) * 2:
        raise InvalidArgumentError(
            f"{type(loss).__name__} has another number of losses than the models "
            "have outputs.",
            received=f"{len(functions)} losses, {counts[0]} teacher outputs, "
            f"{counts[1]} student outputs",
            expected="one loss (or None) for each output",
        )


def _require_same_shape(loss: Any, teacher: Any, student: Any) -> None:
    pairs = list(zip(teacher.shape[1:], student.shape[1:]))
    if len(teacher.shape) == len(student.shape) and all(
        None in (t, s) or t == s for t, s in pairs
    ):
        return
    names = (
        getattr(loss, "teacher_layer_name", None),
        getattr(loss, "student_layer_name", None),
    )
    raise InvalidArgumentError(
        f"{type(loss).__name__} compares tensors of different shapes.",
        received=f"teacher {names[0] or 'output'}: {tuple(teacher.shape)}, "
        f"student {names[1] or 'output'}: {tuple(student.shape)}",
        expected="equal shapes",
        fix="choose layers of equal width, or a loss that learns a projection "
        "between them",
    )
