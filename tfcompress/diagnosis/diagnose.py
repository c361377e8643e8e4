"""doctor: will a model deploy? Asked before it is trained, not after."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfcompress.core.arguments import one_of
from tfcompress.core.errors import (
    ArtifactError,
    CompressionError,
    CompressionWarning,
    ExportError,
)
from tfcompress.core.graph import is_graph_model
from tfcompress.core.ownership import scratch
from tfcompress.core.samples import sample, shape_with, states_of
from tfcompress.core.select import require_built, walk
from tfcompress.diagnosis.findings import Diagnosis, Finding, left_to_cpu
from tfcompress.exporters.artifact import EXPORTERS, Artifact, Format, get_exporter
from tfcompress.exporters.export import export, load
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.operations import layers_with
from tfcompress.exporters.prices import prices_of
from tfcompress.exporters.tracing import trace
from tfcompress.finalization import finalize, finalized
from tfcompress.layers import cell
from tfcompress.quantization.plan import Plan, plan
from tfcompress.quantization.quantize import quantized
from tfcompress.quantization.scheme import Scheme

_SAMPLES, _FREE_SIZE = 8, 8
# Operators that only change the number format.
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "CAST", "Quantize", "Dequantize"})


def doctor(
    model: keras.Model | str | os.PathLike,
    format: str = "tflite",
    scheme: Scheme | None = None,
    trial: bool = True,
    **options: Any,
) -> Diagnosis:
    """Tells, before any training, which parts of a model will not run on its target.

    When to use: first of all. A layer that stays in float, or that the converter cannot
    take, is cheap to replace now and expensive to replace after training.

    First the layers are looked up in the tables that `quantize_aware` and the exporters
    use. Then the model is quantized as it is, with ranges from random inputs, and
    exported as a trial: the converter and the runtime decide. Both run in child
    processes, so that a crash there is reported as a finding.

    Args:
        model: a built model; neither it nor the disk is changed. For an artifact or its
            path, it tells whether the artifact runs and what runs in float; for a float
            .tflite file and a scheme, what would run in float if `export` rounded it.
        format: an export format, such as "tflite", "micro", "onnx" or "saved_model".
            "ethos_u" tells too which layers the NPU leaves to the CPU.
        scheme: the quantization that is planned, as in `quantize_aware`; None asks
            about the float model.
        trial: whether to export the model as a trial (seconds, for large models a
            minute); without it, only what the tables know is found.
        **options: options of the format, such as `npu="u85-256"`.

    Returns:
        A `Diagnosis`; print it.

    Raises:
        InvalidArgumentError: for an unbuilt model, an unknown format, scheme or option.

    Example:

    >>> model = keras.Sequential([keras.Input((8, 8, 8, 1), name="volume"),
    ...                           keras.layers.Conv3D(2, 3, name="conv")])
    >>> diagnosis = doctor(model, "tflite", "w8a8", trial=False)
    >>> diagnosis.deployable, diagnosis.findings[0].layer, diagnosis.findings[0].problem
    (True, 'conv', 'LiteRT has no integer kernel for it')
    """
    exporter = get_exporter(format).with_options(options)
    if isinstance(model, str | os.PathLike):
        return _of_file(model, exporter, format, scheme)
    require_built(model, "examine the model")
    planned = None if scheme is None else plan(model, scheme)
    findings = [
        *_of_model(model, exporter.limits, planned),
        *_of_prices(exporter, planned),
        *_of_layers(model, exporter, planned),
        *_of_graph(model, exporter.limits),
    ]
    coverage, npu = None, None
    if trial and all(finding.severity != "error" for finding in findings):
        try:
            artifact = _trial(model, exporter, format, planned)
            coverage, npu = artifact.integer_coverage, artifact.npu
            asked = planned is not None and planned.scheme.activations is not None
            findings += _of_operators(artifact, exporter.limits, asked, findings)
            findings += left_to_cpu(npu)
        except CompressionError as error:
            findings.append(_of_error(error, exporter.limits))
    if not trial and planned is not None and not exporter.limits.float_models:
        # What a format of integers alone says of layers, it says of their integers.
        findings += _of_refused(model, exporter)
    if not trial and exporter.limits.operators:
        findings.append(_of_unknown_operators(exporter.limits))
    findings.sort(key=lambda finding: finding.severity)
    runtime = exporter.limits.runtime
    return Diagnosis(format, runtime, scheme, tuple(findings), coverage, npu)


def _of_model(
    model: keras.Model, limits: Limits, planned: Plan | None
) -> Iterator[Finding]:
    """Yields what is wrong with the model as a whole."""
    runtime = limits.runtime
    for path in () if limits.keeps_states else states_of(model):
        yield Finding(
            "error",
            path,
            "stateful",
            f"{runtime} keeps no state from call to call",
            "let states come in and go out: `return_state` and `initial_state`",
        )
    for tensor in getattr(model, "inputs", None) or ():
        if "string" in str(tensor.dtype) and not limits.text_inputs:
            yield Finding(
                "error",
                tensor.name,
                "Input",
                f"{runtime} takes no text",
                "let the application look words up, and give the model their numbers",
            )
    bits = None if planned is None else planned.scheme.activations
    if bits is None:
        if not limits.float_models:
            fix = "pass scheme='w8a8' here, and the model through quantize_aware"
            yield Finding("error", "", "model", f"{runtime} takes integers only", fix)
        return
    price = limits.prices.get(bits)
    if not limits.activations:
        costs = f", for {price}" if price else ""
        yield Finding(
            "warning",
            "",
            "model",
            f"{runtime} computes the rounding of quantized models, in float{costs}",
            "export the float model, unless its numbers shall be those of the phone",
        )
    elif bits not in limits.activations:
        nearest = min(limits.activations, key=lambda known: abs(known - bits))
        yield Finding(
            "error",
            "",
            "model",
            f"{runtime} has no activations of {bits} bits",
            f"use a scheme with {nearest} bits, such as 'w8a{nearest}'",
        )


def _of_prices(exporter: Format, planned: Plan | None) -> Iterator[Finding]:
    """Yields what the number formats cost in time."""
    for problem, fix in () if planned is None else prices_of(exporter, planned):
        yield Finding("warning", "", "model", problem, fix)


def _of_layers(
    model: keras.Model, exporter: Format, planned: Plan | None
) -> Iterator[Finding]:
    """Yields the layers that the tables know something against."""
    limits = exporter.limits
    severity: Any = "warning" if limits.float_models else "error"
    if planned is not None and limits.activations:
        for layer in planned.impossible:
            yield Finding("error", layer.name, layer.kind, layer.reason, layer.fix)
        for layer in planned.float_layers:
            yield Finding(severity, layer.name, layer.kind, layer.reason, layer.fix)
        return  # the other layers are replaced by such as have integer kernels
    yield from _of_refused(model, exporter)


def _of_refused(model: keras.Model, exporter: Format) -> Iterator[Finding]:
    """Yields the layers that the format refuses, or computes in another way."""
    # The format may have been given as an instance or a config.
    formats = [f for f in EXPORTERS.names() if type(exporter) is EXPORTERS.class_of(f)]
    named = exporter.limits.layers
    for path, part in walk(model):
        refused_by = cell(part, "refused_by") or {}
        known = [cls.__name__ for cls in type(part).__mro__ if cls.__name__ in named]
        said = next((refused_by[f] for f in formats if f in refused_by), None)
        said = said or (named[known[0]] if known else None)
        if said is not None:
            fix = "replace the layer, or do what is said there"
            yield Finding("warning", path, type(part).__name__, said, fix)


def _of_graph(model: keras.Model, limits: Limits) -> Iterator[Finding]:
    """Yields the layers whose operations the format's converter has no form for."""
    if not limits.missing or not is_graph_model(model):
        return
    try:
        # Layers that only training needs are gone by then.
        final = finalize(model)
        function = trace(final, 1, convertible=True).function
    except CompressionError as error:
        yield _of_error(error, limits)
        return
    parts = dict(walk(final))
    for path, operation in layers_with(function, final, limits.missing).items():
        kind = type(parts[path]).__name__ if path in parts else operation
        yield Finding(
            "error",
            path,
            kind,
            f"{limits.runtime} has no form of its operation {operation}",
            limits.missing[operation],
        )


def _of_unknown_operators(limits: Limits) -> Finding:
    problem = f"{limits.runtime} has some of the operators only, which no table tells"
    return Finding("warning", "", "model", problem, "pass trial=True")


def _trial(
    model: keras.Model, exporter: Any, format: str, planned: Plan | None
) -> Artifact:
    """Returns an artifact of the untrained model; its files are gone by then."""
    with warnings.catch_warnings():
        # What they say is among the findings already.
        warnings.simplefilter("ignore", CompressionWarning)
        if planned is not None:
            aware, graph = quantized(planned)
            aware(_samples(aware), training=True)
            model = finalized(aware, graph)
        with scratch() as folder:
            name = f"model.{format}" if exporter.one_file else exporter.trial_name
            found = exporter.export(model, Path(folder) / name, None, None)
            share = exporter.share_in_integers(found)
            return dataclasses.replace(found, integer_coverage=share)


def _of_file(
    filepath: str | os.PathLike, exporter: Format, format: str, scheme: Any
) -> Diagnosis:
    """Tells whether an artifact runs, and what of it runs in float."""
    artifact, limits = Artifact.read(filepath), exporter.limits
    one_of(format, "The artifact is of another format.", (artifact.format,))
    findings: list[Finding] = []
    try:
        if scheme is None:
            load(artifact)
        else:
            artifact = _rounded(artifact, scheme)
        integers = scheme is not None or bool(artifact.integer_coverage)
        findings += _of_operators(artifact, limits, integers, [])
        findings += left_to_cpu(artifact.npu)
    except (ArtifactError, ExportError) as error:
        findings.append(_of_error(error, limits))
    coverage, npu = artifact.integer_coverage, artifact.npu
    return Diagnosis(format, limits.runtime, scheme, tuple(findings), coverage, npu)


def _rounded(artifact: Artifact, scheme: Any) -> Artifact:
    """Returns what `export` makes of a float file; its own file is gone by then."""
    generator = np.random.default_rng(0)
    data = {
        info.name: sample(
            shape_with(info.shape, _SAMPLES, _FREE_SIZE), info.dtype, generator
        )
        for info in artifact.inputs
    }
    with scratch() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", CompressionWarning)
        path = Path(folder) / "trial.tflite"
        return export(artifact, path, calibration_data=data, scheme=scheme)


def _samples(model: keras.Model) -> Any:
    """Returns random inputs in the structure of the model's."""
    generator = np.random.default_rng(0)

    def drawn(tensor: Any) -> np.ndarray:
        shape = (_SAMPLES, *(size or _FREE_SIZE for size in tensor.shape[1:]))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "bool" or "int" in dtype:
            return generator.integers(0, 2, shape).astype(dtype)
        return generator.normal(size=shape).astype(dtype)

    return keras.tree.map_structure(drawn, model.input)


def _of_operators(
    artifact: Artifact, limits: Limits, integers: bool, known: list[Finding]
) -> Iterator[Finding]:
    """Yields what the trial's operators have against the runtime."""
    for operator in artifact.operators:
        missing = limits.operators and operator.name not in limits.operators
        if missing or operator.name.startswith("Flex"):
            problem = f"{limits.runtime} has no such operator"
            fix = "replace the layer that is converted to it"
            yield Finding("error", "", operator.name, problem, fix)
        # Layers that stay in float bring their operators with them.
        floats = any(kind.startswith("float") for kind in operator.activations)
        quiet = operator.name in _CONVERSIONS or any(f.layer for f in known)
        if integers and limits.activations and floats and not quiet:
            problem = f"runs in float, {operator.count} times"
            fix = "replace the layer that is converted to it, or tell us of it"
            yield Finding("warning", "", operator.name, problem, fix)


def _of_error(error: CompressionError, limits: Limits) -> Finding:
    problem, _, fix = str(error).partition("What to do: ")
    return Finding(
        "error",
        "",
        "trial export",
        problem.strip().rstrip("."),
        fix.rstrip(".") or f"change what {limits.runtime} does not take",
    )
