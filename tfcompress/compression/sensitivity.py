"""How much each layer minds being compressed, by a cheap look at one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from tfcompress.compression.kept import read_kept, write_kept
from tfcompress.compression.task import Task
from tfcompress.exporters.keras_runner import KerasRunner
from tfcompress.layers import model_kernels
from tfcompress.quantization.calibration.rounding import rounded

_SAMPLES = 512
_PRUNED = 0.7

Sensitivity = dict[str, dict[str, float]]


def sensitivity(
    task: Task, cache: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> Sensitivity:
    """Returns how much the loss rises if one layer alone is compressed, untrained.

    Args:
        task: the trained model and what it is trained for.
        cache: directory to keep the answer in.
        progress: called as `progress(done, total)` with kernels, after each.

    Returns:
        By path of the layer: `"pruned"`, with 70 % of its smallest weights zero, and
        `"4 bits"`, with its kernels rounded as
        `mixed_precision` rounds them: per output channel of their kind of layer.
        Differences of the compiled loss on 512 training samples.
    """
    path = cache / f"sensitivity-{task.fingerprint}.json"
    kept = read_kept(path)
    if kept is not None:
        return kept
    model = task.copy()
    runner = KerasRunner(model)  # takes texts too, which Keras' predict does not
    inputs, labels = task.train.sample(_SAMPLES)

    def loss() -> float:
        return task.score(runner, [(inputs, labels, None)])["loss"]

    before = loss()
    found: Sensitivity = {}
    kernels = list(model_kernels(model))
    for done, (name, kernel, variable) in enumerate(kernels, start=1):
        values = keras.ops.convert_to_numpy(variable)
        axes = kernel.reduction_axes(values.ndim)
        changed = {"pruned": _pruned(values), "4 bits": rounded(values, axes)}
        for probe, compressed in changed.items():
            variable.assign(compressed)
            rise = found.setdefault(name, {}).get(probe, 0.0) + loss() - before
            found[name][probe] = rise  # of all kernels of a layer together
            variable.assign(values)
        progress(done, len(kernels))
    cache.mkdir(parents=True, exist_ok=True)
    write_kept(path, found)
    return found


def fragile(found: Sensitivity, probe: str) -> list[str]:
    """Returns the layers that mind a probe four times as much as the median does."""
    values = {name: max(of[probe], 0.0) for name, of in found.items()}
    if len(values) < 3:
        return []
    usual = float(np.median(list(values.values())))
    return [name for name, value in values.items() if value > max(4 * usual, 0.01)]


def _pruned(kernel: np.ndarray) -> np.ndarray:
    threshold = np.quantile(np.abs(kernel), _PRUNED)
    return np.where(np.abs(kernel) < threshold, 0, kernel)
