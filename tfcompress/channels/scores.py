"""What ranks channels: one score per channel of a group, higher = keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from tfcompress.channels.call import Site
from tfcompress.channels.dependencies import ChannelGroup, Dependencies
from tfcompress.core.errors import InvalidArgumentError, one_line
from tfcompress.pruning.criteria import NEEDS, Criterion, criteria_with

Importance = Callable[[keras.Variable], np.ndarray]
"""The score of every weight of a variable."""


class WeightCriterion(Protocol):
    """Anything with the `score(weights)` of a pruning criterion."""

    def score(self, weights: Any) -> Any: ...


AnyCriterion = str | Mapping | WeightCriterion


def channel_criterion(identifier: AnyCriterion, *available: str) -> Criterion:
    """Returns the criterion for channels that a name, a config or an object means.

    Args:
        identifier: a name or config from the list of criteria, or an object whose
            `score(weights)` needs nothing but weights.
        available: what a criterion of the list may need, of `NEEDS`, beside weights
            and normalizations.

    Raises:
        InvalidArgumentError: for what is no criterion, or needs something else.
    """
    known = criteria_with("criterion for channels", "weights", "batch_norm", *available)
    named = isinstance(identifier, type) or not hasattr(identifier, "score")
    criterion: Any = known.get(identifier) if named else identifier
    if not isinstance(criterion, Criterion):
        criterion = Criterion()
        criterion.score = identifier.score  # type: ignore[union-attr]
    elif named and criterion.needs != "weights":
        return criterion
    name = type(criterion if named else identifier).__name__
    try:
        if criterion.needs != "weights":
            raise ValueError(NEEDS.get(criterion.needs, criterion.needs))
        shape = criterion.scores_of(keras.Variable(ops.ones((2, 3)))).shape
    except Exception as error:  # whatever a criterion misses
        names = [n for n in known.names() if known.class_of(n) is type(criterion)]
        by_name = f"pass its name, {names[0]!r}, or " if names else ""
        raise InvalidArgumentError(
            "This criterion does not score channels by their weights alone.",
            received=f"{name} ({one_line(error)})",
            expected=f"one of {', '.join(map(repr, known.names()))}, or an object "
            "whose score(weights) needs nothing else",
            fix=f"{by_name}use {name} with PruneWeights",
        ) from error
    if shape != (2, 3):
        raise InvalidArgumentError(
            "This criterion does not give a score for each weight.",
            received=f"{name}, shape {shape} for weights (2, 3)",
            expected="scores of the same shape as the weights",
        )
    return criterion


def channel_scores(
    dependencies: Dependencies,
    groups: list[ChannelGroup],
    criterion: Criterion,
    score: Importance | None = None,
) -> list[np.ndarray]:
    """Returns a score for each channel of each group, 1 on average.

    The weights that make a channel are scored and summed; where several layers make
    it, each layer's sums are divided by their mean, so that every layer has a say.
    `score` gives the scores where the criterion needs more than the weights for them.

    Source: the group importance of Fang et al., "DepGraph", 2023, eq. 7, with
    `|w|` in place of `w ** 2` unless the criterion says otherwise.
    """
    score = score or criterion.scores_of
    scales = criterion.needs == "batch_norm"
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
