"""What is asked of tfcompress on a random model: right numbers, or a named refusal.

Each check returns `(outcome, detail)`. Outcomes that are right are `"equal"` and
`"refused"`; everything else is a fault: `"silent"` (wrong numbers and no word),
`"unnamed"` (a refusal that names nothing of the user's), `"late"` (a refusal after the
work that `doctor` or the first call could have saved) and `"raw"` (an error that is not
the library's own).
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfcompress
from tests.random_models import outputs_of, random_inputs
from tfcompress.core.select import walk

RIGHT = ("equal", "refused")
SAMPLES = 32
# How far integers may be off the float model, as a share of its outputs' spread. Wide:
# random models amplify; what is wrong is off by more.
_FAR = 0.5
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

Outcome = tuple[str, str]


def _names(model: keras.Model) -> list[str]:
    names = [layer.name for _, layer in walk(model)]
    operations = [operation.name for operation in model.operations]
    return [*names, *operations, *(tensor.name for tensor in model.inputs)]


def _refusal(model: keras.Model, error: Exception) -> Outcome:
    text = " ".join(str(error).split())
    named = any(name in text for name in _names(model))
    return ("refused" if named else "unnamed"), text


def _raw(stage: str, error: Exception) -> Outcome:
    text = " ".join(str(error).split())[:400]
    return "raw", f"{stage}: {type(error).__name__}: {text}"


def check_integers(model: keras.Model, seed: int = 0) -> Outcome:
    """calibrate, finalize, predict and .tflite end in equality, or in a refusal."""
    inputs = random_inputs(model, SAMPLES, seed)
    expected = outputs_of(model, inputs)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            aware = tfcompress.calibrate(model, inputs)
        except tfcompress.CompressionError as error:
            return _refusal(model, error)
        except Exception as error:
            return _raw("calibrate", error)
        words = " ".join(
            str(w.message)
            for w in told
            if issubclass(w.category, tfcompress.CompressionWarning)
        )
    try:
        final = tfcompress.finalize(aware)
    except tfcompress.CompressionError as error:
        return "late", f"finalize: {' '.join(str(error).split())}"
    except Exception as error:
        return _raw("finalize", error)
    try:
        integers = outputs_of(final, inputs)
    except Exception as error:
        return _raw("the finalized model", error)
    jumps = any(type(op).__name__ in _JUMPS for op in model.operations)
    for name, right, got in zip(model.output_names, expected, integers):
        if right.shape != got.shape:
            return "silent", f"{name}: shape {got.shape} instead of {right.shape}"
        spread = float(right.std()) or float(np.abs(right).max()) or 1.0
        off = float(np.sqrt(np.mean((got - right) ** 2))) / spread
        if not np.isfinite(off) or (off > _FAR and not jumps and not words):
            return "silent", f"{name}: {off:.2f} of the spread off the float model"
    return _check_file(model, final, inputs, integers, words)


def _check_file(
    model: keras.Model, final: keras.Model, inputs: Any, expected: list, words: str
) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="random-"))
    try:
        artifact = tfcompress.export(final, folder / "model.tflite")
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
    for info, right, got in zip(artifact.outputs, expected, values):
        step = info.step or 1e-4 * max(1.0, float(np.abs(right).max()))
        off = float(np.abs(got.astype("float64") - right).max()) / step
        worst = max(worst, off)
        if not off <= 1.001:
            kind = "steps" if info.step else "tolerances (float output)"
            return "silent", f"{info.name}: the file is {off:.1f} {kind} off"
    coverage = artifact.integer_coverage
    if coverage is not None and coverage < 1 and not words:
        return "silent", f"coverage {coverage:.2f} and no word"
    return "equal", f"{worst:.2f} steps, coverage {coverage}"
