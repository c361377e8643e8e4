"""Figures of a classifier: confusion, recall, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tfcompress.trustworthiness.changes import Change, ClassChange, ReliabilityBin

BINS = 15

Confusion = tuple[tuple[int, ...], ...]


def confusion(labels: np.ndarray, answers: np.ndarray, classes: int) -> Confusion:
    """Returns how many samples of each label (row) got each answer (column).

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    ((1, 1), (0, 1))
    """
    counts = np.bincount(labels * classes + answers, minlength=classes * classes)
    return tuple(map(tuple, counts.reshape(classes, classes).tolist()))


def class_changes(
    confusions: Sequence[Confusion], names: Sequence[str]
) -> tuple[ClassChange, ...]:
    """Returns recall and one-against-all accuracy of each class, before and after."""
    before, after = map(np.array, confusions)
    support = before.sum(axis=1)
    recalls = zip(_recall(before), _recall(after))
    accuracies = zip(_one_against_all(before), _one_against_all(after))
    return tuple(
        ClassChange(name, count, Change(*recall), Change(*accuracy))
        for name, count, recall, accuracy in zip(
            names, support.tolist(), recalls, accuracies
        )
    )


def _recall(counts: np.ndarray) -> list[float]:
    pairs = zip(np.diag(counts).tolist(), counts.sum(axis=1).tolist())
    return [found / support if support else math.nan for found, support in pairs]


def _one_against_all(counts: np.ndarray) -> list[float]:
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    return (1 - wrong / counts.sum()).tolist()


def reliability(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[ReliabilityBin, ...]:
    """Returns the samples in 15 bins of equal width by their confidence."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # Bin m holds confidences in ((m - 1) / 15, m / 15].
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for place in range(BINS):
        here = places == place
        count = int(here.sum())
        sure = float(confidence[here].mean()) if count else math.nan
        accuracy = float(right[here].mean()) if count else math.nan
        bins.append(ReliabilityBin(count, sure, accuracy))
    return tuple(bins)


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Returns the expected calibration error.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 5:
    `sum(n_m / n * |accuracy_m - confidence_m|)`.
    """
    total = sum(one.count for one in bins)
    gaps = (one.count * abs(one.accuracy - one.confidence) for one in bins if one.count)
    return sum(gaps) / total
