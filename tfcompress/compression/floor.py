"""What no compression can go below: checked before hours of training."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from tfcompress.compression.budget import Budget
from tfcompress.compression.candidate import Candidate
from tfcompress.core.copies import copy_model
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import is_graph_model
from tfcompress.core.ownership import scratch
from tfcompress.exporters.export import export
from tfcompress.packing import pack


def check_possible(
    budget: Budget, baseline: Candidate, model: keras.Model, target: str
) -> None:
    """Raises for a budget of bytes below what the operators alone take.

    The names and shapes of operators stay whatever is done to weights; a file whose
    weights are all zero packs into little more than these.

    Raises:
        InvalidArgumentError: if the budget is below that.
    """
    if target != "tflite" or not is_graph_model(model):
        return
    limits = budget.limits(baseline.measures)
    limits.pop("max_latency_ms", None)
    if all(limit > 0.2 * baseline.measures.bytes for limit in limits.values()):
        return  # far from it
    empty = _packed_without_weights(model)
    for name, limit in limits.items():
        if limit < empty:
            raise InvalidArgumentError(
                f"No compression can meet `{name}`.",
                received=f"{name}={limit:,.0f}",
                expected=f"at least {empty:,}: what the model's operators take packed "
                "when all weights are zero",
                fix="allow more, or begin with a model of fewer layers",
            )


def _packed_without_weights(model: keras.Model) -> int:
    copy = copy_model(model)
    copy.set_weights([np.zeros(w.shape, w.dtype) for w in model.get_weights()])
    with scratch() as folder:
        artifact = export(copy, Path(folder) / "empty.tflite")
        return pack(artifact, Path(folder) / "empty.tfc").size
