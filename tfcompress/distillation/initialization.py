"""Starting a student from its teacher: its layers, and slices of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfcompress.core.copies import give_weights
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import require_built, walk


def initialize_from(
    teacher: keras.Model,
    student: keras.Model,
    layers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Starts a student's weights from those of its teacher.

    Use it before distilling into a student of the same kind that is shallower,
    thinner or both: it starts near the teacher and needs far fewer epochs. Layers
    are paired in groups of the same type and rank of weights; of n teacher layers
    in a group, m < n student layers take evenly spaced ones, from the first on
    (as DistilBERT takes every second), the last ones belonging together. Where the
    student is thinner it takes evenly spaced units, the same in every layer of equal
    widths, so that channels keep fitting together through the network.

    Source: Sanh et al., "DistilBERT, a distilled version of BERT" (2019), section
    3, for the layers; Xu et al., "Initializing Models with Larger Ones" (2024),
    for the evenly spaced slices of widths used here.

    Args:
        teacher: a trained model.
        student: a built model. Its weights are changed.
        layers: `{student path: teacher path}` to set the pairs by hand; others
            keep their weights.

    Returns:
        `{student path: teacher path}` of all layers that took over weights.

    Raises:
        InvalidArgumentError: for unbuilt models, for paths that do not exist,
            for given pairs that do not fit, or if no layers can be paired.

    Example:

    >>> def mlp(width, depth):
    ...     dense = [keras.layers.Dense(width) for _ in range(depth)]
    ...     return keras.Sequential([keras.Input((4,)), *dense, keras.layers.Dense(2)])
    >>> teacher, student = mlp(8, 4), mlp(4, 2)
    >>> pairs = initialize_from(teacher, student)
    >>> bool((student.layers[-1].bias == teacher.layers[-1].bias).numpy().all())
    True
    """
    for model in (teacher, student):
        require_built(model, "initialize a student from its teacher")
    ours, theirs = _with_weights(student), _with_weights(teacher)
    pairs = _pair(ours, theirs) if layers is None else dict(layers)
    for mine, yours in pairs.items():
        for path, table in ((mine, ours), (yours, theirs)):
            if path not in table:
                raise InvalidArgumentError(
                    "There is no such layer with weights.",
                    received=repr(path),
                    expected="one of " + ", ".join(table),
                )
        _copy(theirs[yours], ours[mine], f"{yours} -> {mine}")
    if not pairs:
        raise InvalidArgumentError(
            "No layer of the student is like one of the teacher.",
            received=", ".join(ours) or "a student without weights",
            expected="layers of the types in the teacher: " + ", ".join(theirs),
            fix="pass `layers`, a dict from student paths to teacher paths",
        )
    return pairs


def _with_weights(model: keras.Model) -> dict[str, keras.Layer]:
    """Returns the layers that own weights, not those that only hold such layers."""
    found = [(path, layer) for path, layer in walk(model) if layer.weights]
    return {
        path: layer
        for path, layer in found
        if not any(other is not layer for _, other in walk(layer))
    }


def _pair(
    ours: dict[str, keras.Layer], theirs: dict[str, keras.Layer]
) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for kind in dict.fromkeys(_kind(layer) for layer in ours.values()):
        mine = [path for path, layer in ours.items() if _kind(layer) == kind]
        yours = [path for path, layer in theirs.items() if _kind(layer) == kind]
        if not yours:
            continue
        # The last layers belong together: they speak about the same classes.
        places = list(np.linspace(0, len(yours) - 1, len(mine)))
        if len(mine) == 1:
            places = [len(yours) - 1 if _is_last(mine[0], ours) else 0]
        for path, place in zip(mine, places):
            pairs[path] = yours[int(np.floor(place + 0.5))]
    return pairs


def _is_last(path: str, table: dict[str, keras.Layer]) -> bool:
    return path == list(table)[-1]


def _kind(layer: keras.Layer) -> tuple:
    ranks = tuple(len(weight.shape) for weight in layer.weights)
    return (re.sub(r"^.*\.", "", type(layer).__name__), ranks)


def _copy(source: keras.Layer, target: keras.Layer, names: str) -> None:
    values = []
    for have, want in zip(source.get_weights(), target.get_weights(), strict=False):
        if have.ndim != want.ndim:
            raise InvalidArgumentError(
                "These layers' weights do not fit together.",
                received=f"{names}: {have.shape} and {want.shape}",
                expected="weights of equal rank",
            )
        values.append(_sliced(have, want))
    if len(values) != len(target.get_weights()):
        raise InvalidArgumentError(
            "These layers have different weights.",
            received=f"{names}: {len(source.weights)} and {len(target.weights)}",
            expected="layers of one type with the same options (use_bias ...)",
        )
    give_weights(target, values)


def _sliced(have: np.ndarray, want: np.ndarray) -> Any:
    """Returns evenly spaced entries of `have` where `want` is smaller.

    An axis that is larger in the student keeps what it has beyond the teacher's.
    """
    result = want.copy()
    for axis, size in enumerate(want.shape):
        if size < have.shape[axis]:
            places = np.floor(np.arange(size) * have.shape[axis] / size).astype(int)
            have = np.take(have, places, axis=axis)
    result[tuple(slice(n) for n in have.shape)] = have
    return result
