"""What was written against the model it was written from, before it is published.

The child process runs the staged artifact on a few samples that the model's inputs can
take. Every export does this: converters leave out, saturate and reorder without a word.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.child.probing import probe
from tfcompress.core.arguments import one_of
from tfcompress.core.errors import ExportError, warn
from tfcompress.core.graph import is_graph_model
from tfcompress.core.graph import trace as trace_graph
from tfcompress.core.ownership import scratch
from tfcompress.core.samples import (
    FREE_SIZES,
    attempts,
    distance,
    run,
    sample,
    shape_with,
    swing,
    texts,
)
from tfcompress.core.select import rounded_by_keras, walk
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.runner import dequantized, quantized
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tracing import TracedModel, input_structure
from tfcompress.quantization.fake_quantize import FakeQuantize

_SAMPLES = 4
# Inputs of more values than this are big enough to be tried on fewer samples.
_BIG, _FEW = 1 << 17, 2
# Steps of the output: what is promised, what is told, and what is no artifact of the
# model. Of a model that is not finalized the promise is less: on average.
PROMISED_STEPS, _MOST_STEPS, _UNFINISHED_STEPS = 1.001, 4.001, 8.0
_SMALLEST = 1e-6
# How far float32 is off a number, twice, as a share of it.
FLOAT32_ERROR = 2.0**-23
# Seven bits after the point, as bfloat16 has, in layer after layer.
_HALF_SHARE = 0.05
# How little inputs are moved to see whether the model itself is steady.
_NUDGE = 1e-6

# What the call of `export` that runs asks for: what every format's comparison is to do.
_CHECK = contextvars.ContextVar("check", default="error")


@contextlib.contextmanager
def checking(check: str) -> Iterator[None]:
    """What is exported within is compared as `check` says.

    Args:
        check: "error", "warn" or "off", as in `export`.
    """
    one_of(check, "Unknown `check`.", ("error", "warn", "off"))
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


@dataclasses.dataclass(frozen=True)
class Bound:
    """How far an artifact may be off its model.

    Attributes:
        share: of float outputs, as a share of the largest value.
        average: whether the bound is that of the mean over all values of an output, as
            where the format itself rounds numbers, and not of each.
        steps: whether rounded outputs are held to steps.
        promised: how many steps they may be off without a word.
    """

    share: float = 1e-3
    average: bool = False
    steps: bool = True
    promised: float = PROMISED_STEPS


@dataclasses.dataclass(frozen=True)
class Trial:
    """Samples, and what the model makes of them.

    Attributes:
        model: the model that is exported.
        structure: that of its inputs.
        inputs: arrays by the names of the artifact's inputs; None where no samples are
            known that the model takes.
        expected: outputs by the names of the artifact's outputs.
        finished: whether the model's rounding is that of the artifact.
        share: how far float outputs may be off because the model itself computes in
            16 bits, and the artifact in 32; as a share of the largest value.
    """

    model: Any
    structure: Any
    inputs: dict[str, np.ndarray] | None
    expected: dict[str, np.ndarray]
    finished: bool
    share: float = 0.0

    def on(self, columns: dict[str, np.ndarray]) -> Trial:
        """Returns the trial on the first of a user's own samples."""
        rows = len(next(iter(self.inputs.values()))) if self.inputs else 0
        if not rows or self.structure is None:
            return self
        inputs = {name: column[:rows] for name, column in columns.items()}
        if len(next(iter(inputs.values()))) < rows:
            return dataclasses.replace(self, inputs=None)
        made = run(self.model, self.structure, list(inputs.values()))
        expected = dict(zip(self.expected, made))
        return dataclasses.replace(self, inputs=inputs, expected=expected)

    def again(self, rows: int) -> dict[str, np.ndarray]:
        """Returns the outputs of calls with `rows` samples, as an artifact has."""
        assert self.inputs is not None
        arrays = list(self.inputs.values())
        parts = [
            run(self.model, self.structure, [a[start : start + rows] for a in arrays])
            for start in range(0, len(arrays[0]), rows)
        ]
        # One number for all samples of a call has no axis for them.
        columns = (
            np.concatenate([np.atleast_1d(one) for one in column])
            for column in zip(*parts)
        )
        return dict(zip(self.expected, columns))

    def swings(self) -> dict[str, np.ndarray]:
        """Returns how far each output moves when the inputs move by next to nothing."""
        assert self.inputs is not None
        arrays = list(self.inputs.values())
        found = swing(self.model, self.structure, arrays, _NUDGE)
        return dict(zip(self.expected, found))


def trial(
    model: keras.Model, traced: TracedModel, batch_size: int | None, signature: Any
) -> Trial:
    """Returns samples for a model, and what it computes of them.

    Args:
        model: the model that is exported.
        traced: its trace.
        batch_size: samples per call of the artifact; None for any number.
        signature: as in `export`, for models that do not know their inputs.
    """
    names = [info.name for info in traced.inputs]
    outputs = [info.name for info in traced.outputs]
    values = sum(np.prod([n or 1 for n in info.shape[1:]]) for info in traced.inputs)
    rows = _FEW if values > _BIG else _SAMPLES
    if batch_size:
        rows = max(batch_size, rows // batch_size * batch_size)
    roundings = [one for _, one in walk(model) if isinstance(one, FakeQuantize)]
    finished = bool(roundings) and all(
        one.frozen or one.fixed_range is not None for one in roundings
    )
    nothing = dict.fromkeys(outputs, np.zeros(0))
    if _CHECK.get() == "off":
        return Trial(model, None, None, nothing, finished)
    for structure, arrays, made in _tried(model, traced, rows, signature):
        if len(made) == len(outputs) and all(map(np.ndim, arrays)):
            inputs, expected = dict(zip(names, arrays)), dict(zip(outputs, made))
            half = any("16" in layer.compute_dtype for _, layer in walk(model))
            share = _HALF_SHARE if half else 0.0
            return Trial(model, structure, inputs, expected, finished, share)
    return Trial(model, None, None, nothing, finished)


def _tried(model: Any, traced: TracedModel, rows: int, signature: Any) -> Any:
    # Copies of layers that Keras itself has rounded would not be rounded.
    copied = is_graph_model(model) and not rounded_by_keras(model)
    if copied and signature is None:
        graph = trace_graph(model, "try the model")
        for arrays, made in attempts(model, graph, rows):
            yield graph.inputs, arrays, made
        return
    structure = input_structure(model, signature)
    generator = np.random.default_rng(0)
    for size in FREE_SIZES:
        arrays = [
            sample(shape_with((None, *i.shape[1:]), rows, size), i.dtype, generator)
            for i in traced.inputs
        ]
        try:
            made = run(model, structure, arrays)
        except Exception:  # whatever it raises for numbers that mean nothing to it
            continue
        yield structure, arrays, made
        return


def compared(
    tried: Trial,
    artifact: Artifact,
    runtime: str,
    bound: Bound,
    where: Callable[[], Any] | None = None,
    **job: Any,
) -> dict[str, Any]:
    """Runs a staged artifact in the child process, and compares it with its model.

    Args:
        tried: samples, and what the model makes of them.
        artifact: the description of what was staged.
        runtime: what runs it, for messages.
        bound: how far it may be off.
        where: looks for the layer at which it begins to differ.
        **job: what the child's job is given besides.

    Returns:
        What is noted in the manifest: the number of samples (0 where none is known that
        the model takes, or with `check="off"`; the artifact then ran on zeros at
        most), and the bound (None where it is off by more, with `check="warn"`).

    Raises:
        ExportError: if it does not run, or is off by more than the bound and `check`
            is "error".
    """
    if tried.inputs is None:
        probe(artifact.path, runtime, ExportError, **job)
        return {"samples": 0, "bound": None}
    rows = len(next(iter(tried.inputs.values())))
    rows = artifact.inputs[0].shape[0] or rows if artifact.inputs[0].shape else rows
    actual = outputs_of(tried, artifact, runtime, rows, job)
    return judged(tried, artifact, runtime, actual, bound, where, rows)


def judged(
    tried: Trial,
    artifact: Artifact,
    runtime: str,
    actual: dict[str, np.ndarray],
    bound: Bound,
    where: Callable[[], Any] | None = None,
    rows: int | None = None,
) -> dict[str, Any]:
    """Is `compared`, for outputs that somebody else made in the artifact's runtime.

    Args:
        tried: samples, and what the model makes of them.
        artifact: the description of what was staged.
        runtime: what ran it, for messages.
        actual: its outputs by name, as real numbers.
        bound: how far it may be off.
        where: looks for the layer at which it begins to differ.
        rows: samples per call; None for all at once.

    Raises:
        ExportError: if it is off by more than the bound and `check` is "error".
    """
    assert tried.inputs is not None
    if _CHECK.get() == "off":
        return {"samples": 0, "bound": None}
    count = len(next(iter(tried.inputs.values())))
    steps = None
    if bound.steps and any(info.step for info in artifact.outputs):
        # The first is told and the second refused; noted is what it is without a word.
        steps = ("1 step", "4 steps") if tried.finished else ("8 steps on average",) * 2
    limit = _said(bound, tried.share)
    failures = _failures(tried, artifact, actual, tried.expected, bound)
    if failures and rows is not None and rows < count:
        # A model may mix the samples of a batch, and then sees those of one call only.
        failures = _failures(tried, artifact, actual, tried.again(rows), bound)
    if failures:
        swings = tried.swings()
        failures = {n: f for n, f in failures.items() if f.mean > 4 * swings[n].mean()}
    serious = [one for one in failures.values() if one.serious]
    if failures:
        place = where() if where is not None else None
        said = "; ".join(map(str, failures.values()))
        said += f"; the first layer that differs is {place}" if place else ""
        fix = "replace the layer, leave it in float by `filters`, or tell us of it"
        problem = f"The artifact does not compute in {runtime} what the model computes."
        expected = f"outputs within {steps[1] if steps else limit}"
        if serious and _CHECK.get() == "warn":
            warn(f"{problem} Received: {said}. Expected: {expected}. {fix}.")
            return {"samples": count, "bound": None}
        if serious:
            raise ExportError(problem, received=said, expected=expected, fix=fix)
        warn(f"The artifact is not equal to the model in {runtime}: {said}. {fix}.")
    return {"samples": count, "bound": steps[0] if steps else limit}


@dataclasses.dataclass(frozen=True)
class _Failure:
    name: str
    largest: float
    mean: float
    unit: str
    serious: bool

    def __str__(self) -> str:
        return f"output {self.name!r} is off by {self.largest:.3g}{self.unit}"


def _failures(
    tried: Trial,
    artifact: Artifact,
    actual: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    bound: Bound,
) -> dict[str, _Failure]:
    return {
        name: failure
        for info in artifact.outputs
        for name in [info.name]
        if (failure := _failure(info, expected[name], actual[name], tried, bound))
    }


def _failure(
    info: TensorInfo, wanted: np.ndarray, got: np.ndarray, tried: Trial, bound: Bound
) -> _Failure | None:
    """Returns what is wrong with an output, None if nothing is."""
    if wanted.size != got.size:
        return _Failure(info.name, np.inf, np.inf, f": shape {got.shape}", True)
    if not wanted.size:
        return None
    apart = distance(wanted, got.reshape(wanted.shape))
    largest, mean = float(apart.max()), float(apart.mean())
    if not np.issubdtype(wanted.dtype, np.floating):
        # Answers: among the samples may be a tie, but not among all of them.
        wrong = float(np.mean(apart > 0))
        failed = wrong > 0.25
        return _Failure(info.name, largest, mean, "", True) if failed else None
    size = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
    if info.step and bound.steps:
        largest, mean = largest / info.step, mean / info.step
        # Both numbers are float32, which a step of 16 bits shows.
        rounding = FLOAT32_ERROR * size / info.step
        failed = largest > bound.promised + rounding
        serious = largest > _MOST_STEPS + rounding
        if not tried.finished:
            failed = serious = mean > _UNFINISHED_STEPS
        return _Failure(info.name, largest, mean, " steps", serious) if failed else None
    limit = max(bound.share, tried.share) * size + _SMALLEST
    failed = (mean if bound.average else largest) > limit
    unit = f", where its largest value is {size:.3g}"
    return _Failure(info.name, largest, mean, unit, True) if failed else None


def outputs_of(
    tried: Trial, artifact: Artifact, runtime: str, rows: int, job: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Returns what an artifact makes of the samples, by name and as real numbers."""
    assert tried.inputs is not None
    infos = {info.name: info for info in artifact.inputs}
    feeds = {
        name: quantized(array, infos[name]) if infos[name].quantized else array
        for name, array in tried.inputs.items()
    }
    with scratch() as folder:
        samples, outputs = Path(folder) / "samples.npz", Path(folder) / "outputs.npz"
        plain = {
            f"{position}": texts(array) if array.dtype == object else array
            for position, array in enumerate(feeds.values())
        }
        np.savez(samples, **plain)  # type: ignore[arg-type]
        probe(
            artifact.path,
            runtime,
            ExportError,
            samples=str(samples),
            outputs=str(outputs),
            names=[list(feeds), list(tried.expected)],
            rows=rows,
            **job,
        )
        with np.load(outputs) as stored:
            found = [stored[str(i)] for i in range(len(tried.expected))]
    described = {info.name: info for info in artifact.outputs}
    return {
        name: dequantized(value, described[name])
        if described[name].quantized
        else value
        for name, value in zip(tried.expected, found)
    }


def _said(bound: Bound, share: float) -> str:
    mean = ", on average" if bound.average else ""
    return f"{max(bound.share, share):g} of the largest value{mean}"
