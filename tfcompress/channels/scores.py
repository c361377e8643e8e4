"""What ranks channels: one score per channel of a group, higher = keep."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from tfcompress.channels.call import Site
from tfcompress.channels.dependencies import ChannelGroup, Dependencies
from tfcompress.core.errors import InvalidArgumentError, one_line

Importance = Callable[[keras.Variable], np.ndarray]
"""The score of every weight of a variable."""


class WeightCriterion(Protocol):
    """Anything with the `score(weights)` of a pruning criterion."""

    def score(self, weights: Any) -> Any: ...


Criterion = str | WeightCriterion

CRITERIA = ("batch_norm", "magnitude", "random", "taylor")
_ALIASES = {"batch_norm_scale": "batch_norm"}


def standard_name(criterion: Criterion) -> Criterion:
    """Returns the one name of a criterion that has two.

    Example:

    >>> standard_name("batch_norm_scale")
    'batch_norm'
    """
    return (
        _ALIASES.get(criterion, criterion) if isinstance(criterion, str) else criterion
    )


def magnitude(variable: keras.Variable) -> np.ndarray:
    """Absolute values."""
    return np.abs(_values(variable))


def random(variable: keras.Variable) -> np.ndarray:
    """Noise that is the same in every run: seeded by the weight's path."""
    generator = np.random.default_rng(zlib.crc32(variable.path.encode()))
    return generator.random(tuple(variable.shape))


def importance(criterion: Criterion, gradients: Importance | None) -> Importance:
    """Returns the function that scores the weights of one variable.

    Raises:
        InvalidArgumentError: for an unknown name or an object without `score`.
    """
    criterion = standard_name(criterion)
    if isinstance(criterion, str) and criterion in CRITERIA:
        if criterion == "taylor":
            if gradients is None:
                raise InvalidArgumentError(
                    "criterion='taylor' needs data to take gradients from.",
                    received="data=None",
                    expected="data=(inputs, targets) or a data set of such pairs",
                )
            return gradients
        return random if criterion == "random" else magnitude
    if hasattr(criterion, "score") and not isinstance(criterion, type):
        _check_scores_weights(criterion)
        return lambda variable: ops.convert_to_numpy(
            criterion.score(ops.convert_to_tensor(_values(variable)))
        )
    raise InvalidArgumentError(
        "Unknown criterion for channels.",
        received=repr(criterion),
        expected=f"one of {', '.join(map(repr, CRITERIA))}",
        fix="pass one of these names or an object with score(weights), such as "
        "tfcompress.Magnitude(p=2)",
    )


def _check_scores_weights(criterion: WeightCriterion) -> None:
    """Raises for criteria that look at more than weights, which come with a fit."""
    try:
        shape = tuple(criterion.score(ops.ones((2, 3))).shape)
    except Exception as error:  # whatever a criterion misses
        name = type(criterion).__name__
        raise InvalidArgumentError(
            "This criterion does not score channels by their weights alone.",
            received=f"{name} ({one_line(error)})",
            expected=f"one of {', '.join(map(repr, CRITERIA))}, or an object whose "
            "score(weights) needs nothing else",
            fix=f"use {name} with PruneWeights, or criterion='taylor' of shrink for "
            "gradients",
        ) from error
    if shape != (2, 3):
        raise InvalidArgumentError(
            "This criterion does not give a score for each weight.",
            received=f"{type(criterion).__name__}, shape {shape} for weights (2, 3)",
            expected="scores of the same shape as the weights",
        )


def channel_scores(
    dependencies: Dependencies,
    groups: list[ChannelGroup],
    criterion: Criterion = "magnitude",
    gradients: Importance | None = None,
) -> list[np.ndarray]:
    """Returns a score for each channel of each group, 1 on average.

    The weights that make a channel are scored and summed; where several layers make
    it, each layer's sums are divided by their mean, so that every layer has a say.

    Source: the group importance of Fang et al., "DepGraph", 2023, eq. 7, with
    `|w|` in place of `w ** 2` unless the criterion says otherwise.
    """
    score = importance(criterion, gradients)
    scales = standard_name(criterion) == "batch_norm"
    where = {
        m: (g, i) for g, group in enumerate(groups) for i, m in enumerate(group.members)
    }
    sums = [np.zeros(group.channels) for group in groups]
    scaled = [np.zeros(group.channels) for group in groups]
    for site in dependencies.sites:
        gamma = scales and _is_gamma(site)
        if site.role != "output" and not gamma:
            continue
        values = score(site.variable)
        others = tuple(a for a in range(values.ndim) if a != site.axis)
        values = np.asarray(values, "float64").sum(axis=others)
        values /= np.mean(values) or 1.0
        for one, value in zip(dependencies.roots[site.ids].tolist(), values):
            if one in where:
                g, i = where[one]
                (scaled if gamma else sums)[g][i] += value
    # A group without any BatchNormalization falls back on its kernels.
    chosen = [b if b.any() else a for a, b in zip(sums, scaled)]
    return [s / (np.mean(s) or 1.0) for s in chosen]


def _is_gamma(site: Site) -> bool:
    layer = site.operation
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and site.variable is layer.gamma
    )


def _values(variable: keras.Variable) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(variable, "float32"))
