"""Which channels may go, at most how many of a layer, and which go first."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from tfcompress.channels.call import NO_RULE
from tfcompress.channels.dependencies import ChannelGroup, Dependencies
from tfcompress.channels.widths import Counts
from tfcompress.core.arguments import number, pattern
from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.core.select import Filters, matches, walk

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
    chosen = {path for path, layer in layers if matches(path, layer, filters)}
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


def warn_of_unknown(dependencies: Dependencies) -> None:
    """Names the channels that stay only because a layer has no channel rule."""
    kept = [
        f"{group.name} ({reason})"
        for group in dependencies.groups
        for reason in group.fixed
        if NO_RULE in reason
    ]
    if kept:
        warn(f"These channels are left as they are: {'; '.join(kept)}.")


def limits_of(
    groups: list[ChannelGroup], given: Limits, known: list[ChannelGroup]
) -> list[float]:
    """Returns the largest sparsity of each group; of several limits, the least.

    Args:
        groups: the groups that may lose channels.
        given: what the user set.
        known: all groups of the model, in which a name must occur.
    """
    given = {} if given is None else given
    table = dict(given) if isinstance(given, Mapping) else {"": given}
    names = sorted({path for group in known for path in group.made_by})
    found: dict[str, set[str]] = {}
    for key, limit in table.items():
        where = f" ({key!r})" if key else ""
        problem = "`max_layer_sparsity` is the largest share of channels to remove"
        number(limit, f"{problem}{where}.", "[0, 1]", "numbers in [0, 1]")
        wanted = pattern(key, "`max_layer_sparsity` has no valid regular expression")
        found[key] = {name for name in names if wanted.search(name)}
        if names and not found[key]:
            raise InvalidArgumentError(
                f"`max_layer_sparsity` names {key!r}, which matches no layer that "
                "makes channels.",
                received=repr(given),
                expected=f"expressions that match some of {', '.join(names)}",
            )
    return [
        min(
            (float(limit) for p, limit in table.items() if found[p] & set(g.made_by)),
            default=1.0,
        )
        for g in groups
    ]
