"""Weights of samples, masks and replicas: how per-sample losses become one number."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Schedule = keras.optimizers.schedules.LearningRateSchedule

# How many steps the optimizer has made; losses have no other way to know.
STEP: contextvars.ContextVar[Any] = contextvars.ContextVar(
    "tfcompress_optimizer_step", default=0
)


def now(value: Any) -> Any:
    """Returns a number, or what a schedule of numbers says at the current step."""
    return value(STEP.get()) if isinstance(value, Schedule) else value


class Reduced(keras.losses.Loss):
    """A function of `(teacher, student)` with the reduction of a Keras loss."""

    def __init__(self, function: Callable, reduction: str | None = None):
        # Keras' distillation takes the mean of whatever a loss returns.
        if reduction in (None, "none"):
            reduction = "sum_over_batch_size"
        super().__init__("distillation", reduction, "float32")
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


def mean(values: Any, sample_weight: Any = None, reduction: str | None = None) -> Any:
    """Returns the weighted mean of `values` of shape `(batch, ...)`, as Keras does."""
    # The values stand for both arguments: only the reduction is wanted.
    reduce = Reduced(lambda _, given: given, reduction)
    return reduce(values, values, align_weight(sample_weight, values.shape))


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
