"""Which of several workers writes: they run the same script, with the same weights."""

from __future__ import annotations

import json
import os

import keras

from tfcompress.core.errors import InvalidArgumentError


def is_chief(model: keras.Model | None = None) -> bool:
    """Returns whether this process is the one that writes: the only one, or the chief.

    When to use: in a script that several machines run, around all that follows the
    training: `export`, `pack`, `report`. The chief is the worker of that name, and
    where there is none worker 0.

    Args:
        model: whose strategy is asked first; without one (a finalized model is built
            outside of it) the environment's `TF_CONFIG` is.

    Example:

    >>> is_chief()
    True
    """
    task = _task(model)
    if task is None:
        return True
    kind, index, cluster = task
    return kind == "chief" or (
        kind == "worker" and index == 0 and "chief" not in cluster
    )


def require_chief(action: str, model: keras.Model | None = None) -> None:
    """Refuses what only one of several workers may do.

    Args:
        action: what is not possible, such as "export a model".
        model: whose strategy is asked first.

    Raises:
        InvalidArgumentError: on a worker that is not the chief.
    """
    if not is_chief(model):
        kind, index, _ = _task(model) or ("", 0, {})
        raise InvalidArgumentError(
            f"Cannot {action} on every worker: they would write over each other.",
            received=f"a call on {kind} {index}",
            expected="a call on the chief (worker 0)",
            fix="call it under `if tfcompress.is_chief():`; all workers have the same "
            "weights",
        )


def _task(model: keras.Model | None) -> tuple[str, int, dict] | None:
    """Returns kind and index of this process and its cluster, if it is in one."""
    strategy = getattr(model, "distribute_strategy", None)
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is not None:
        cluster = resolver.cluster_spec().as_dict()
        kind, index = resolver.task_type, resolver.task_id
    else:
        given = json.loads(os.environ.get("TF_CONFIG") or "{}")
        cluster, task = given.get("cluster", {}), given.get("task", {})
        kind, index = task.get("type"), task.get("index", 0)
    if not cluster or kind is None:
        return None
    return kind, int(index or 0), cluster
