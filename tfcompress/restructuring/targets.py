"""Which channels may go, at most how many of a layer, and which go first."""

from __future__ import annotations

import re
from collections.abc import Mapping

import keras
import numpy as np

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import Filters, matches, walk
from tfcompress.restructuring.dependencies import ChannelGroup, Dependencies
from tfcompress.restructuring.widths import Counts

Limits = float | Mapping[str, float] | None


def lowest(
    groups: list[ChannelGroup], scores: list[np.ndarray], counts: Counts
) -> set[int]:
    """Returns the classes that go so that `counts` of each group remain."""
    removed: set[int] = set()
    for group, score, count in zip(groups, scores, counts):
        order = np.argsort(-score, kind="stable")
        removed.update(group.members[i] for i in order[int(count) :])
    return removed


def eligible(
    model: keras.Model, dependencies: Dependencies, filters: Filters
) -> list[ChannelGroup]:
    """Returns the groups that can lose channels and of which `filters` take a layer.

    Raises:
        InvalidArgumentError: if `filters` take none; it says what keeps those it took.
    """
    free = [group for group in dependencies.groups if not group.fixed]
    if filters is None:
        return free
    makers = {path for group in dependencies.groups for path in group.made_by}
    layers = [(path, layer) for path, layer in walk(model) if path in makers]
    try:
        chosen = {path for path, layer in layers if matches(path, layer, filters)}
    except re.error as error:
        raise InvalidArgumentError(
            f"`filters` is not a valid regular expression ({error}).",
            received=repr(filters),
        ) from error
    found = [group for group in free if chosen.intersection(group.made_by)]
    if not found:
        kept = [str(g) for g in dependencies.groups if chosen.intersection(g.made_by)]
        raise InvalidArgumentError(
            "`filters` match no layer whose channels can be removed.",
            received=f"{filters!r}, which matches "
            + (" | ".join(kept) or "no layer that makes channels"),
            expected="one of " + ", ".join(group.name for group in free),
        )
    return found


def limits_of(groups: list[ChannelGroup], given: Limits) -> list[float]:
    """Returns the largest sparsity of each group; of several limits, the least."""
    table = {"": given} if isinstance(given, int | float) else dict(given or {})
    for pattern, limit in table.items():
        if not 0 <= limit <= 1:
            raise InvalidArgumentError(
                "`max_layer_sparsity` is the largest share of channels to remove.",
                received=f"{limit} for {pattern!r}",
                expected="numbers in [0, 1]",
            )
        if not any(re.search(pattern, path) for g in groups for path in g.made_by):
            raise InvalidArgumentError(
                f"`max_layer_sparsity` names {pattern!r}, which matches no layer whose "
                "channels can be removed.",
                received=repr(given),
                expected="expressions that match some of "
                + ", ".join(group.name for group in groups),
            )
    return [
        min(
            (
                float(limit)
                for pattern, limit in table.items()
                if any(re.search(pattern, path) for path in group.made_by)
            ),
            default=1.0,
        )
        for group in groups
    ]
