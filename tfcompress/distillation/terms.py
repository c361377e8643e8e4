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
from tfcompress.distillation.formulas import soft_cross_entropy, soft_divergence
from tfcompress.distillation.weighting import (
    Reduced,
    align_weight,
    float32,
    mean,
    mean_weight,
    weights_per_output,
)

LogitsDistillation = keras.distillation.LogitsDistillation
FeatureDistillation = keras.distillation.FeatureDistillation


def distillation_term(
    loss: Any,
    teacher: Any,
    student: Any,
    sample_weight: Any = None,
    labels: Any = None,
) -> Any:
    """Returns the value of one distillation loss for one batch.

    Args:
        loss: a `keras.distillation.DistillationLoss`.
        teacher, student: tensors, or equal structures of tensors, of shape
            `(batch, ...)` and any float dtype.
        sample_weight: `None`, a tensor of shape `(batch,)` or `(batch, steps)`, or
            one such tensor for each output.
        labels: what the student was to predict, for losses that have an argument
            of this name.

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
    takes = inspect.signature(loss.compute_loss).parameters
    kwargs = {"labels": labels} if "labels" in takes else {}
    if "sample_weight" in takes:
        kwargs["sample_weight"], sample_weight = sample_weight, None
    teacher = keras.tree.map_structure(float32, teacher)
    student = keras.tree.map_structure(float32, student)
    loss.validate_outputs(teacher, student)
    value = loss.compute_loss(teacher, student, **kwargs)
    if getattr(loss, "reduces_like_keras", False):
        return value
    return _reduce(loss, value, (teacher, student), sample_weight)


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
        reduce = Reduced(make(function), getattr(function, "reduction", None))
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


def _reduce(loss: Any, value: Any, pair: tuple[Any, Any], sample_weight: Any) -> Any:
    """Returns what a loss made by a user returned, as a weighted mean."""
    if sample_weight is not None and len(value.shape) == 0:
        value = _per_sample(loss, *pair)
    if len(value.shape) == 0:
        value = ops.reshape(value, (1,))
    return mean(value, mean_weight(sample_weight))


def _per_sample(loss: Any, teacher: Any, student: Any) -> Any:
    """Returns a scalar loss evaluated on each sample as a batch of one."""

    def one(pair: Any) -> Any:
        t, s = keras.tree.map_structure(lambda x: ops.expand_dims(x, 0), pair)
        return loss.compute_loss(t, s)

    return ops.vectorized_map(one, (teacher, student))


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
        fix="choose layers of equal width, or the loss Hint, which learns a "
        "projection between them",
    )
