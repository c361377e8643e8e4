"""Formulas that several losses share."""

from __future__ import annotations

from typing import Any

from keras import ops


def soft_divergence(teacher: Any, student: Any, temperature: Any) -> Any:
    """Returns `T^2 KL(softmax(t / T) || softmax(s / T))` over the last axis."""
    log_teacher = ops.log_softmax(teacher / temperature, axis=-1)
    log_student = ops.log_softmax(student / temperature, axis=-1)
    divergence = ops.exp(log_teacher) * (log_teacher - log_student)
    return ops.sum(divergence, axis=-1) * temperature**2


def standardized(logits: Any) -> Any:
    """Returns logits with a mean of zero and a standard deviation of one."""
    mean = ops.mean(logits, axis=-1, keepdims=True)
    deviation = ops.std(logits, axis=-1, keepdims=True)
    return (logits - mean) / (deviation + 1e-7)


def soft_cross_entropy(teacher: Any, student: Any, temperature: Any) -> Any:
    """Returns `-T^2 sum(softmax(t / T) log softmax(s / T))` over the last axis."""
    targets = ops.softmax(teacher / temperature, axis=-1)
    log_student = ops.log_softmax(student / temperature, axis=-1)
    return -ops.sum(targets * log_student, axis=-1) * temperature**2


def class_probabilities(labels: Any, classes: int) -> Any:
    """Returns labels, given as class numbers or as probabilities, as the latter."""
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) > 1 and labels.shape[-1] == classes:
        return ops.cast(labels, "float32")
    if len(labels.shape) > 1 and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, axis=-1)
    return ops.one_hot(ops.cast(labels, "int32"), classes, dtype="float32")
