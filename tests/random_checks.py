"""What is asked of tfcompress on a random model: right numbers, or a named refusal.

Each check returns `(outcome, detail)`. Outcomes that are right are `"equal"` and
`"refused"`; everything else is a fault: `"told"` (wrong numbers and a warning of the
export that they are), `"silent"` (wrong numbers and no word),
`"unnamed"` (a refusal that names nothing of the user's), `"late"` (a refusal after the
work that `doctor` or the first call could have saved) and `"raw"` (an error that is not
the library's own).
"""

from __future__ import annotations

import functools
import itertools
import shutil
import tempfile
import unittest.mock
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import keras
import numpy as np

import tfcompress
from tests.graph_macs import graph_macs
from tests.random_models import outputs_of, random_inputs
from tfcompress.core.copies import copy_model
from tfcompress.core.samples import swing
from tfcompress.core.select import walk
from tfcompress.layers import model_kernels
from tfcompress.quantization.fake_quantize import FakeQuantize

RIGHT = ("equal", "refused")
SAMPLES = 32
# How far integers may be off the float model, as a share of its outputs' spread. Wide:
# random models amplify; what is wrong is off by more.
_FAR = 0.5
# How many times as far as noise of the size of all roundings takes it.
_NOISE = 3.0
# How many steps a file may be off the finalized model: one, and the noise of floats.
_EQUAL = 1.001
# The least spread that counts, as a share of the largest value: of rounding alone.
_FLAT = 1e-3
# How little inputs are moved to see whether the model itself is steady.
_NUDGE = 1e-6
_JUMPS = (
    "Sign",
    "Floor",
    "Round",
    "Ceil",
    "Where",
    "Greater",
    "Argmax",
    "Discretization",
)

# How far counts of MACs, and shares of them, may be off.
_FEW, _NEAR = 0.01, 0.05
_SPARSITY, _SHARE = 0.5, 0.7

Outcome = tuple[str, str]


def _names(model: keras.Model) -> list[str]:
    names = [layer.name for _, layer in walk(model)]
    operations = [operation.name for operation in model.operations]
    inputs = [tensor.name for tensor in model.inputs]
    return [model.name, *names, *operations, *inputs]


def _refusal(model: keras.Model, error: Exception) -> Outcome:
    text = " ".join(str(error).split())
    named = any(name in text for name in _names(model))
    return ("refused" if named else "unnamed"), text


def _raw(stage: str, error: Exception) -> Outcome:
    text = " ".join(str(error).split())[:400]
    return "raw", f"{stage}: {type(error).__name__}: {text}"


def _with_words(function: Callable, *args: Any) -> tuple[Any, str]:
    """Returns what a function makes, and what the library warned of meanwhile."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = function(*args)
    ours = (w for w in told if issubclass(w.category, tfcompress.CompressionWarning))
    return made, " ".join(str(w.message) for w in ours)


def check_integers(model: keras.Model, seed: int = 0, **options: Any) -> Outcome:
    """calibrate, finalize, predict and .tflite end in equality, or in a refusal."""
    inputs = random_inputs(model, SAMPLES, seed)
    expected = outputs_of(model, inputs)
    try:
        calibrate = functools.partial(tfcompress.calibrate, **options)
        aware, words = _with_words(calibrate, model, inputs)
    except tfcompress.CompressionError as error:
        return _refusal(model, error)
    except Exception as error:
        return _raw("calibrate", error)
    try:
        final, more = _with_words(tfcompress.finalize, aware)
        words += more
    except tfcompress.CompressionError as error:
        return "late", f"finalize: {' '.join(str(error).split())}"
    except Exception as error:
        return _raw("finalize", error)
    try:
        integers = outputs_of(final, inputs)
    except Exception as error:
        return _raw("the finalized model", error)
    jumps = any(type(op).__name__ in _JUMPS for op in model.operations)
    noisy = None
    for index, (name, right, got) in enumerate(
        zip(model.output_names, expected, integers)
    ):
        if right.shape != got.shape:
            return "silent", f"{name}: shape {got.shape} instead of {right.shape}"
        known = np.isfinite(right)  # averages over nothing are no numbers in Keras
        right, got = right[known], got[known]
        if not right.size:
            continue
        largest = float(np.abs(right).max())
        spread = max(float(right.std()), _FLAT * largest) or 1.0
        apart = _apart(right, got)
        far = apart > _FAR * spread and not jumps and not words
        if far and np.isfinite(apart):
            # Numbers that lie close together in a wide range are lost in 8 bits.
            noisy = noisy or _with_noise(aware, inputs)
            far = apart > _NOISE * _apart(right, noisy[index][known])
        if far or not np.isfinite(apart):
            text = f"{apart / spread:.2f} of the spread off the float model"
            return "silent", f"{name}: {text}"
    return _check_file(model, final, inputs, integers, words)


def check_partly(model: keras.Model, seed: int = 0) -> Outcome:
    """The same with half of the layers left in float by `filters`."""
    kept = {layer.name for _, layer in walk(model) if crc32(layer.name.encode()) % 2}
    if not kept:
        return "equal", "nothing to choose"
    outcome, detail = check_integers(
        model, seed, filters=lambda layer: layer.name in kept
    )
    if detail.startswith("coverage"):
        return "equal", detail  # what is in float was asked for
    return outcome, detail


def check_macs(model: keras.Model) -> Outcome:
    """`macs` is the count of the traced TensorFlow graph, or a refusal."""
    try:
        counted = tfcompress.macs(model)
    except tfcompress.CompressionError as error:
        return _refusal(model, error)
    except Exception as error:
        return _raw("macs", error)
    try:
        traced = graph_macs(model)
    except ValueError as error:
        return "refused", f"the traced graph cannot be counted: {error}"
    off = abs(counted - traced) / max(traced, 1)
    kind = "equal" if off <= _FEW else "silent"
    return kind, f"{counted} counted, {traced} in the traced graph"


def check_prune(model: keras.Model) -> Outcome:
    """Every kernel that pruning does not name reaches the sparsity asked for."""
    inputs = random_inputs(model, SAMPLES)
    targets = keras.tree.map_structure(
        lambda t: np.zeros((SAMPLES, *t.shape[1:]), "float32"), model.output
    )
    schedule = tfcompress.ConstantSparsity(_SPARSITY, frequency=1)
    copy = copy_model(model)
    copy.compile(keras.optimizers.SGD(0.0), "mse")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            copy.fit(
                *(inputs, targets),
                batch_size=SAMPLES // 2,
                callbacks=[tfcompress.PruneWeights(schedule)],
                verbose=0,
            )
        except tfcompress.CompressionError as error:
            return _refusal(model, error)
        except Exception as error:
            if _fails(model, inputs, targets):
                return "refused", "Keras itself cannot train it"
            return _raw("fit", error)
        words = " ".join(str(w.message) for w in told)
    for path, _, variable in model_kernels(copy):
        kernel = np.asarray(variable)
        zeros = float(np.mean(kernel == 0))
        if zeros < _SPARSITY - 1 / kernel.size and path.split("/")[-1] not in words:
            return "silent", f"{path}: {zeros:.2f} zeros, {_SPARSITY} asked for"
    return "equal", "all kernels"


def _fails(model: keras.Model, *data: Any) -> bool:
    """Returns whether a model cannot be fitted without the library either."""
    plain = copy_model(model)
    plain.compile(keras.optimizers.SGD(0.0), "mse")
    try:
        plain.fit(*data, batch_size=SAMPLES // 2, verbose=0)
    except Exception:  # whatever Keras and TensorFlow raise
        return True
    return False


def check_shrink(model: keras.Model) -> Outcome:
    """`shrink(macs=0.7)` ends near it by the traced count, or in a refusal."""
    try:
        before = graph_macs(model)
    except ValueError as error:
        return "refused", f"the traced graph cannot be counted: {error}"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            smaller = tfcompress.shrink(model, macs=_SHARE, round_to=1)
        except tfcompress.CompressionError as error:
            # Random models are small: that no width meets the target names layers.
            return _refusal(model, error)
        except Exception as error:
            return _raw("shrink", error)
        words = [w for w in told if w.category is tfcompress.CompressionWarning]
    share = graph_macs(smaller) / max(before, 1)
    if abs(share - _SHARE) > _NEAR * _SHARE and not words:
        return "silent", f"{share:.3f} of the MACs are left, {_SHARE} asked for"
    return "equal", f"{share:.3f} of the MACs are left"


def _check_file(
    model: keras.Model, final: keras.Model, inputs: Any, expected: list, words: str
) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="random-"))
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            artifact = tfcompress.export(final, folder / "model.tflite")
        words += " ".join(str(w.message) for w in told)
        runner = tfcompress.load(artifact.path)
        given = keras.tree.map_structure(np.asarray, inputs)
        outputs: Any = runner(given)
    except tfcompress.CompressionError as error:
        outcome, text = _refusal(model, error)
        known = tfcompress.doctor(model, "tflite", "w8a8", trial=False)
        if outcome == "refused" and known.deployable:
            outcome = "late"
        return outcome, f"export: {text}"
    except Exception as error:
        return _raw("export", error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    names = [info.name for info in artifact.outputs]
    values = (
        [outputs[name] for name in names] if isinstance(outputs, dict) else [outputs]
    )
    worst = 0.0
    swings = None
    outputs_made = [*zip(artifact.outputs, values)]
    if not all(
        _steps_off(info, right, got) <= _EQUAL
        for (info, got), right in zip(outputs_made, expected)
    ):
        # Some layers mix the samples of a batch, and the file has one in each call.
        rows = [
            keras.tree.map_structure(lambda x, i=i: x[i : i + 1], inputs)
            for i in range(SAMPLES)
        ]
        parts = [outputs_of(final, row) for row in rows]
        expected = [np.concatenate(column) for column in zip(*parts)]
    for index, ((info, got), right) in enumerate(zip(outputs_made, expected)):
        off = _steps_off(info, right, got)
        worst = max(worst, off)
        if off > _EQUAL:
            arrays = [np.asarray(x) for x in keras.tree.flatten(inputs)]
            swings = swings or swing(final, final.input, arrays, _NUDGE)
            if off * _step(info, right) <= 2 * swings[index].max():
                continue
        if not off <= _EQUAL and "not equal to the model" in words:
            return "told", f"{info.name}: the file is {off:.1f} off, and export says so"
        if not off <= _EQUAL:
            kind = "steps" if info.step else "tolerances (float output)"
            return "silent", f"{info.name}: the file is {off:.1f} {kind} off"
    coverage = artifact.integer_coverage
    if coverage is not None and coverage < 1 and not words:
        return "silent", f"coverage {coverage:.2f} and no word"
    return "equal", f"{worst:.2f} steps, coverage {coverage}"


def _apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(np.mean((first - second) ** 2)))


def _with_noise(aware: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Returns outputs with noise as large as a rounding in the place of each."""
    seeds = itertools.count()

    def noise(self: FakeQuantize, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        low, high = self.learned_range()
        shape, seed = keras.ops.shape(inputs), next(seeds)
        added = keras.random.uniform(shape, -0.5, 0.5, seed=seed) * self.step()
        return keras.ops.clip(keras.ops.cast(inputs, "float32") + added, low, high)

    with unittest.mock.patch.object(FakeQuantize, "call", noise):
        return outputs_of(aware, inputs)


def _step(info: Any, values: np.ndarray) -> float:
    return info.step or 1e-4 * float(np.nanmax(np.abs(values), initial=1.0))


def _steps_off(info: Any, right: np.ndarray, got: np.ndarray) -> float:
    apart = np.abs(got.astype("float64") - right)
    apart = np.where(np.isnan(got) & np.isnan(right), 0.0, apart)
    return float(apart.max()) / _step(info, right)
