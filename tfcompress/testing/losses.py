"""The contract of distillation losses."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.distillation.terms import distillation_term
from tfcompress.testing.tools import (
    compiled,
    dtype_of,
    gradients_of,
    require,
    round_trip,
)


def check_loss(
    loss: Any, teacher: Any = None, student: Any = None, labels: Any = None
) -> None:
    """Checks that `loss` is one number that weights reach and a student can lower.

    When to use: in the tests of a `DistillationLoss` of your own.

    Args:
        loss: an instance.
        teacher, student: arrays, what the models say of a batch of at least four
            samples, in the structure that the loss takes; None for scores of five
            classes.
        labels: what the samples are, for a loss that reads it.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    >>> from tfcompress.distillation.losses import SoftLabels
    >>> check_loss(SoftLabels(temperature=2.0))
    """
    name = type(loss).__name__
    rng = np.random.default_rng(0)
    if teacher is None:
        teacher = rng.normal(size=(8, 5)).astype("float32")
    if student is None:
        student = rng.normal(size=(8, 5)).astype("float32")
    copy = round_trip(loss)
    count = len(keras.tree.flatten(student)[0])
    even = np.ones(count, "float32")

    def term(student: Any, teacher: Any = teacher, weight: Any = even) -> Any:
        return distillation_term(loss, teacher, student, weight, labels)

    keras.utils.set_random_seed(0)  # a loss may make weights of its own
    value = term(student)
    require(
        tuple(value.shape) == () and dtype_of(value) == "float32",
        f"{name} of a batch must be a float32 scalar, got {dtype_of(value)} "
        f"{tuple(value.shape)}",
    )
    require(np.isfinite(float(value)), f"{name} of a batch is {float(value)}")
    keras.utils.set_random_seed(0)
    again = float(distillation_term(copy, teacher, student, even, labels))
    require(
        np.isclose(again, float(value), rtol=1e-5),
        f"{name} rebuilt from its config gives {again} instead of {float(value)}; "
        "get_config must return every argument of __init__",
    )
    try:
        inside = float(compiled(term)(student))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise AssertionError(f"{name} cannot be compiled: {reason}") from error
    require(
        np.isclose(inside, float(value), rtol=1e-4, atol=1e-6),
        f"{name} compiled gives {inside}, eager {float(value)}",
    )
    weight = (np.arange(count) % 2).astype("float32")
    known = float(term(student, weight=weight))
    other = float(term(_spoiled(student, weight), _spoiled(teacher, weight), weight))
    require(
        np.isclose(other, known, rtol=1e-4, atol=1e-6),
        f"{name} of samples without weight counts: it is {other} instead of {known} "
        "where these are other ones",
    )
    _check_descent(name, term, student, teacher)


def _spoiled(outputs: Any, weight: Any) -> Any:
    """Returns other outputs for the samples that have no weight."""

    def of(array: Any) -> Any:
        column = weight.reshape(-1, *[1] * (np.ndim(array) - 1))
        return np.where(column > 0, array, np.float32(50)).astype("float32")

    return keras.tree.map_structure(of, outputs)


def _check_descent(name: str, term: Any, student: Any, teacher: Any) -> None:
    """Checks the gradient by the student's outputs, also where these are right."""
    value, gradients = gradients_of(term, student)
    size = np.sqrt(sum(float(np.sum(np.square(g))) for g in gradients))
    require(
        np.isfinite(size) and size > 0,
        f"{name} has a gradient of size {size:.3g} by the student's outputs, which "
        "nothing can learn from",
    )
    outputs = keras.tree.flatten(student)
    steps = [s - 1e-2 / size * g for s, g in zip(outputs, gradients)]
    after = float(term(keras.tree.pack_sequence_as(student, steps)))
    require(
        after < value,
        f"{name} goes from {value} to {after} in a step down its gradient; something "
        "in it hides how it depends on the student",
    )
    shapes = [
        [np.shape(array) for array in keras.tree.flatten(side)]
        for side in (teacher, student)
    ]
    if shapes[0] == shapes[1]:
        value, gradients = gradients_of(term, teacher)
        require(
            np.isfinite(value) and all(np.isfinite(g).all() for g in gradients),
            f"{name} or its gradient is not finite where student and teacher are equal",
        )
