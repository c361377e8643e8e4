"""verify: an artifact against its model, on samples."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.core.arguments import number
from tfcompress.core.arrays import renamed
from tfcompress.core.data import columns_of
from tfcompress.core.errors import InvalidArgumentError, VerificationError
from tfcompress.core.html import html_table, paragraph
from tfcompress.core.samples import distance
from tfcompress.core.select import walk
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.comparing import FLOAT32_ERROR
from tfcompress.exporters.export import load
from tfcompress.exporters.keras_runner import KerasRunner
from tfcompress.exporters.manifest import record
from tfcompress.exporters.manifest_file import read_manifest, sha256_of
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tflite.divergence import first_divergence
from tfcompress.quantization.fake_quantize import FakeQuantize

# Float arithmetic in another order of summation; relative to the largest output.
FLOAT_TOLERANCE = 1e-5
# One rounding of the output may fall the other way.
STEP_TOLERANCE = 1.0
# Room for the rounding of the measurement itself.
_SLACK = 1e-3
# Types of weights that the converter rounds, where the model has none of them.
_SMALL_WEIGHTS = frozenset(("float16", "bfloat16", "int4", "int8", "uint8"))
# Types of arrays of text.
_TEXTS = frozenset("OSU")


@dataclass(frozen=True)
class Verification:
    """What `verify` measured, and whether it is good enough.

    Args:
        max_abs_error: largest absolute difference over all outputs.
        max_error_steps: the same in quantization steps of the output it occurs in;
            None if no output is quantized.
        agreement: share, from 0 to 1, of samples whose top-1 class is the same in
            all outputs with more than one class; None if there is no such output.
        integer_coverage: the artifact's integer coverage; None where it has none.
        samples: number of samples compared.
        passed: whether all thresholds are met.
        failures: one sentence for each threshold that is not met.

    Example:

    >>> print(Verification(0.004, 1.0, 1.0, 1.0, 50, True))
    passed on 50 samples: max error 0.004 (1.00 steps), top-1 agreement 100.00%, \
integer coverage 100%
    """

    max_abs_error: float
    max_error_steps: float | None
    agreement: float | None
    integer_coverage: float | None
    samples: int
    passed: bool
    failures: tuple[str, ...] = ()

    def raise_if_failed(self) -> "Verification":
        """Returns itself if it passed.

        Raises:
            VerificationError: if a threshold is not met.
        """
        if not self.passed:
            raise VerificationError(
                "The artifact does not do what its reference does.",
                received="; ".join(self.failures),
                expected=f"all thresholds met on {self.samples} samples",
                fix="check the layers that were left float, or loosen a threshold",
            )
        return self

    def to_json(self) -> str:
        """Returns all fields as JSON; NaN becomes null."""
        fields = dataclasses.asdict(self)
        for name, value in fields.items():
            if isinstance(value, float) and not np.isfinite(value):
                fields[name] = None
        return json.dumps(fields, indent=2)

    def _repr_html_(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        rows = [
            [field.name.replace("_", " "), f"{value:.4g}"]
            for field in dataclasses.fields(self)[:5]
            if (value := getattr(self, field.name)) is not None
        ]
        text = paragraph(f"{verdict} on {self.samples} samples", strong=True)
        text += html_table(["measure", "value"], rows)
        return text + "".join(map(paragraph, self.failures))

    def __str__(self) -> str:
        parts = [f"max error {self.max_abs_error:.3g}"]
        if self.max_error_steps is not None:
            parts[0] += f" ({self.max_error_steps:.2f} steps)"
        if self.agreement is not None:
            parts.append(f"top-1 agreement {self.agreement:.2%}")
        if self.integer_coverage is not None:
            parts.append(f"integer coverage {self.integer_coverage:.0%}")
        verdict = "passed" if self.passed else "FAILED: " + "; ".join(self.failures)
        return f"{verdict} on {self.samples} samples: {', '.join(parts)}"


def verify(
    artifact: Artifact | str | os.PathLike | Runner,
    reference: keras.Model | Runner | Artifact | str | os.PathLike,
    inputs: Any,
    max_abs_error: float | None = None,
    min_agreement: float | None = None,
    min_integer_coverage: float | None = None,
    signature: str | None = None,
) -> Verification:
    """Compares an artifact with its model on real samples.

    Use it after every export: converters leave layers float or write wrong numbers
    without an error. A NaN in the artifact's output is always a failure. Where the
    outputs of an integer .tflite file are off, the failures name the first layer whose
    values inside the file differ from the model's. What was measured against a
    `keras.Model`, or against the float file that `export` rounded, is recorded in the
    artifact's manifest, if there is one.

    Args:
        artifact: an `Artifact` or its path, or a loaded `Runner`.
        reference: the `keras.Model` it was exported from, a `Runner`, or another
            artifact.
        inputs: real samples along the first axis: an array, a list in the order of
            the model's inputs, a dict by input name, or a data set of batches
            (docs/data.md); labels are not used.
        max_abs_error: largest absolute difference allowed. None: one quantization
            step for a quantized output, for a float output 1e-5 times the largest
            absolute reference output (at least 1).
        min_agreement: least share of equal top-1 classes, from 0 to 1. None: not
            checked.
        min_integer_coverage: least share of the work in integers, from 0 to 1.
            None: not checked.
        signature: which of several signatures of the artifact to compare; None for the
            first.

    Returns:
        A `Verification`; call `.raise_if_failed()` to stop on a failure.

    Raises:
        InvalidArgumentError: if the inputs are empty or do not fit, or there is no such
            signature.
        ArtifactError: if the artifact is damaged.

    Example:

    ```python
    result = tfcompress.verify("student.tflite", model, x_test, min_agreement=0.999)
    print(result)  # passed on 10000 samples: max error 0.0039 (1.00 steps), ...
    ```
    """
    if max_abs_error is not None:
        number(max_abs_error, "Bad `max_abs_error`.", "[0, inf]")
    for name, least in (
        ("min_agreement", min_agreement),
        ("min_integer_coverage", min_integer_coverage),
    ):
        if least is not None:
            number(least, f"`{name}` is a share.", "[0, 1]")
    coverage = described = None
    if isinstance(artifact, Runner):
        runner = artifact if signature is None else artifact.with_signature(signature)
    else:
        described = (
            artifact if isinstance(artifact, Artifact) else Artifact.read(artifact)
        )
        coverage = described.integer_coverage
        runner = load(described, signature=signature)
    other = _reference(reference, runner)
    columns = columns_of(inputs, _ordered(runner.inputs, other.inputs))
    actual = runner.run(columns)
    expected = _pair(other.run(renamed(columns, other.inputs)), actual)
    samples = len(next(iter(columns.values())))

    failures: list[str] = []
    errors: list[float] = []
    steps: list[float] = []
    for info in runner.outputs:
        error, scaled = _compare(
            info, actual[info.name], expected[info.name], max_abs_error, failures
        )
        errors.append(error)
        if scaled is not None:
            steps.append(scaled)
    if failures and described is not None and isinstance(reference, keras.Model):
        tolerance = STEP_TOLERANCE + _SLACK
        first = first_divergence(described, reference, columns, tolerance, signature)
        if first is not None:
            failures.append(f"the first layer that differs is {first}")
        failures += _costs_of_compression(described, reference)
    elif failures and described is not None:
        failures += _costs_of_rounding(described, other)
    agreement = _agreement(actual, expected)
    if min_agreement is not None and (agreement is None or agreement < min_agreement):
        failures.append(f"top-1 agreement {agreement} is below {min_agreement}")
    if min_integer_coverage is not None and (
        coverage is None or coverage < min_integer_coverage
    ):
        failures.append(f"integer coverage {coverage} is below {min_integer_coverage}")
    result = Verification(
        max_abs_error=float(np.max(errors)),
        max_error_steps=float(np.max(steps)) if steps else None,
        agreement=agreement,
        integer_coverage=coverage,
        samples=samples,
        passed=not failures,
        failures=tuple(failures),
    )
    if described is not None and _is_made_of(described, reference):
        of = {} if signature is None else {"signature": signature}
        record(described, parity={**of, **json.loads(result.to_json())})
    return result


def _compare(
    info: TensorInfo,
    actual: np.ndarray,
    expected: np.ndarray,
    limit: float | None,
    failures: list[str],
) -> tuple[float, float | None]:
    if actual.shape != expected.shape:
        raise InvalidArgumentError(
            f"Output {info.name!r} differs in shape from the reference's.",
            received=f"shape {actual.shape}",
            expected=f"shape {expected.shape}",
            fix="compare the artifact with the model it was exported from",
        )
    if actual.dtype.kind in _TEXTS:
        differ = int(distance(actual, expected).sum())
        if differ:
            failures.append(f"{differ} texts of output {info.name!r} differ")
        return float(differ > 0), None
    actual, expected = actual.astype("float64"), expected.astype("float64")
    broken = int(np.sum(~np.isfinite(actual) & (actual != expected)))
    if broken or np.isnan(expected).any():
        who = "the artifact" if broken else "the reference"
        count = broken or int(np.isnan(expected).sum())
        failures.append(f"{count} values of output {info.name!r} of {who} are NaN")
        return float("nan"), float("nan") if info.step else None
    # Equal infinities, as in a masked score, have no difference.
    differing = actual != expected
    difference = np.abs(actual[differing] - expected[differing])
    error = float(difference.max(initial=0.0))
    steps = error / info.step if info.step else None
    finite = np.abs(expected[np.isfinite(expected)])
    largest = float(finite.max(initial=0.0))
    if limit is None and info.step:
        # Both numbers are float32: a difference of one step of 16 bits shows it.
        limit = STEP_TOLERANCE * info.step + FLOAT32_ERROR * largest
    elif limit is None:
        limit = FLOAT_TOLERANCE * max(1.0, largest)
    if error > limit * (1 + _SLACK):
        failures.append(
            f"output {info.name!r} is off by {error:.3g}, more than {limit:.3g}"
        )
    return error, steps


def _costs_of_compression(artifact: Artifact, model: keras.Model) -> list[str]:
    """Returns what explains a difference that is no fault of the file."""
    layers = [layer for _, layer in walk(model)]
    if any(isinstance(layer, FakeQuantize) for layer in layers):
        return []
    name = f"model {model.name!r}"
    weights = {kind for one in artifact.operators for kind in one.weights}
    small = sorted(weights & _SMALL_WEIGHTS)
    if artifact.integer_coverage or any(one.step for one in artifact.outputs):
        return [
            f"the artifact computes in integers and {name} in floats, so this is what "
            "quantization costs and no fault of the file; compare it with the "
            "finalized model that was exported: what finalize returned, or `tfcompress "
            "export --save-finalized` wrote"
        ]
    if small:
        return [
            f"the artifact's weights are {', '.join(small)} and those of {name} are "
            "not, so this is what the smaller weights cost and no fault of the file; "
            "no finalized model has them: allow for it by `max_abs_error`"
        ]
    return [
        f"if {name} was compressed (pruned, clustered, factorized) or trained after "
        "it was saved, this is what that changed; compare the artifact with the "
        "finalized model that was exported: what finalize returned, or `tfcompress "
        "export --save-finalized` wrote"
    ]


def _costs_of_rounding(artifact: Artifact, file: Runner) -> list[str]:
    """Returns what explains a difference between integers and the file of floats."""
    integers = any(info.step for info in artifact.outputs)
    if not integers or any(info.step for info in file.outputs):
        return []
    return [
        f"the artifact computes in integers and {file.name} in floats, so this is what "
        "quantization costs and no fault of the file; say how much of it is allowed "
        "by `max_abs_error` and `min_agreement`"
    ]


def _is_made_of(artifact: Artifact, reference: Any) -> bool:
    """Returns whether the reference is a model, or the file that was rounded."""
    if isinstance(reference, keras.Model):
        return True
    if isinstance(reference, Runner) or not Path(reference).is_file():
        return False
    known = (read_manifest(artifact) or {}).get("model") or {}
    return "sha256" in known and known["sha256"] == sha256_of(Path(reference))


def _agreement(
    actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> float | None:
    same = [
        np.all(
            np.argmax(a, -1) == np.argmax(expected[n], -1),
            axis=tuple(range(1, a.ndim - 1)),
        )
        for n, a in actual.items()
        if a.ndim >= 2 and a.shape[-1] > 1 and a.dtype.kind not in _TEXTS
    ]
    return float(np.mean(np.all(same, axis=0))) if same else None


def _ordered(
    ports: Sequence[TensorInfo], others: Sequence[TensorInfo]
) -> Sequence[TensorInfo]:
    """Returns the artifact's inputs in the order of the reference's."""
    order = [info.name for info in others]
    if sorted(order) != sorted(info.name for info in ports):
        return ports
    return sorted(ports, key=lambda info: order.index(info.name))


def _reference(reference: Any, runner: Runner) -> Runner:
    if isinstance(reference, Runner):
        return reference
    if not isinstance(reference, keras.Model):
        return load(reference)
    if getattr(reference, "inputs", None):
        return KerasRunner(reference)
    # A subclassed model does not know its inputs; the artifact does.
    signature = {
        info.name: keras.InputSpec(shape=(None, *info.shape[1:]), dtype="float32")
        if info.quantized
        else keras.InputSpec(shape=(None, *info.shape[1:]), dtype=info.dtype)
        for info in runner.inputs
    }
    one = len(signature) == 1
    return KerasRunner(reference, next(iter(signature.values())) if one else signature)


def _pair(
    expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the reference's outputs under the artifact's names."""
    if sorted(expected) == sorted(actual):
        return expected
    if len(expected) != len(actual):
        raise InvalidArgumentError(
            "The artifact and its reference have different outputs.",
            received=sorted(actual),
            expected=sorted(expected),
            fix="compare the artifact with the model it was exported from",
        )
    return dict(zip(actual, expected.values()))
