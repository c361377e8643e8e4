"""A .tflite file with the signatures infer, train, save and restore."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.backend import require_tensorflow
from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.core.ownership import scratch
from tfcompress.core.samples import run, samples_of
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.manifest import model_facts, publish
from tfcompress.exporters.operations import refuse_random
from tfcompress.exporters.publishing import check_free
from tfcompress.exporters.tflite.merging import inlined
from tfcompress.exporters.tflite.metadata import with_metadata
from tfcompress.exporters.tracing import tensor_names
from tfcompress.exporters.training import OnDeviceTraining

_SCRIPT = str(Path(__file__).with_name("_training_worker.py"))
_STEPS, _RATE = 3, 0.1
# Of float32, after a few sums.
_ROUNDING = 1e-6
_OWN = frozenset(("target", "learning_rate"))


def write_training(
    exporter: Any, training: OnDeviceTraining, filepath: Path, unused: tuple
) -> Artifact:
    """Writes a file that can train the last layer of a model, and describes it.

    The layers before the last one are converted as always, for a batch of inference
    and one of training; the last one, with its gradient, on its own.
    """
    require_tensorflow("export a model")
    if any(one is not None for one in unused):
        raise InvalidArgumentError(
            "A model that is trained on the device is exported as it is.",
            received="an `input_signature` or `calibration_data`",
            expected="neither",
            fix="quantize the layers before the last one by `calibrate`",
        )
    if exporter.io_dtype != "float32" or exporter.smallest or exporter.sparse:
        raise InvalidArgumentError(
            "A file that trains has plain floats as inputs and outputs.",
            received=f"io_dtype={exporter.io_dtype!r}, smallest={exporter.smallest!r}, "
            f"sparse={exporter.sparse}",
            expected="none of these options",
        )
    names = tensor_names(training.model)[0]
    if _OWN.intersection(names):
        raise InvalidArgumentError(
            "Inputs of the model have names that the training needs.",
            received=", ".join(names),
            expected=f"other names than {', '.join(sorted(_OWN))}",
        )
    target = exporter.check(filepath, None)
    check_free(target, exporter.overwrites)
    WORKER.warm_up()
    return publish(
        exporter,
        model_facts(training.model),
        target,
        lambda stage: _write(exporter, training, stage),
        lambda: exporter.check(filepath, None),
    )


def _write(
    exporter: Any, training: OnDeviceTraining, stage: Path
) -> tuple[Artifact, dict[str, Any]]:
    sizes = {"infer": exporter.batch_size, "train": training.batch_size}
    with scratch() as name:
        folder = Path(name)
        bodies = {}
        for signature, size in sizes.items() if training.last.is_behind_others else ():
            body = training.last.body()
            alone = dataclasses.replace(exporter, batch_size=size, description=None)
            place = folder / f"{signature}.tflite"
            source = alone.source(body, None, None)
            runtime = exporter.limits.runtime
            refuse_random(source.traced.function, source.model, runtime)
            alone.write(source, place)
            bodies[signature] = place.read_bytes()
        head = _head(exporter, training, folder)
    content = inlined(head, bodies, _features_of(training))
    if exporter.description is not None:
        content = with_metadata(content, exporter.description)
    stage.write_bytes(content)
    written = exporter.inspect(stage)
    source = exporter.source(training.model, None, None)
    noted = exporter.compare(source, written.of("infer"), "infer")
    rounded = source.traced.fake_quantized or exporter.quantize is not None
    _check_training(training, written, 0.05 if rounded else 1e-3)
    return written, noted


def _features_of(training: OnDeviceTraining) -> str:
    """Returns what the last layer's file calls what the layer reads."""
    behind = training.last.is_behind_others
    return "features" if behind else tensor_names(training.model)[0][0]


def _head(exporter: Any, training: OnDeviceTraining, folder: Path) -> bytes:
    """Returns the file of the last layer alone, whose inputs are features."""
    weights, output = folder / "weights.npz", folder / "head.tflite"
    kernel, *bias = training.last.layer.get_weights()
    bias = bias or [np.zeros(kernel.shape[-1], "float32")]
    np.savez(weights, kernel=kernel.astype("float32"), bias=bias[0].astype("float32"))
    job = {
        "job": "write_head",
        "script": _SCRIPT,
        "weights": str(weights),
        "softmax": training.last.softmax,
        "loss": training.loss,
        "features": _features_of(training),
        "rows": training.batch_size,
        "infer_rows": exporter.batch_size,
        "name": tensor_names(training.model)[1][0],
        "output": str(output),
    }
    try:
        WORKER.run(job)
    except ConverterFailure as failure:
        raise failure.as_error(
            "The TFLite converter refused the training of the last layer.",
            "tell us of it, with the loss and the shape of the layer",
        ) from None
    return output.read_bytes()


def _check_training(
    training: OnDeviceTraining, written: Artifact, share: float
) -> None:
    """Raises unless steps in LiteRT are those of SGD, and weights come back.

    Args:
        training: the model.
        written: the file.
        share: how far what is learned may be off, as a share of its largest value.
    """
    last = training.last
    graph = last.graph
    size, rows = training.batch_size, written.of("infer").inputs[0].shape[0] or 2
    arrays = samples_of(graph, max(size, rows), 16)
    features = arrays[0][:size]
    if last.is_behind_others:
        given = [array[:size] for array in arrays]
        features = run(last.body(), graph.inputs, given)[0]
    units = last.layer.units
    generator = np.random.default_rng(3)
    wanted: Any = generator.integers(0, units, size).astype("int32")
    if training.loss == "mean_squared_error":
        wanted = generator.normal(size=(size, units)).astype("float32")
    elif training.loss == "categorical_crossentropy":
        wanted = np.eye(units, dtype="float32")[wanted]
    rate = _RATE / max(float(np.square(features).sum(-1).max()), 1.0)
    expected = _trained(last, training.loss, features, wanted, rate)
    names = tensor_names(training.model)
    with scratch() as folder:
        samples, outputs = Path(folder) / "samples.npz", Path(folder) / "outputs.npz"
        columns: dict[str, Any] = {"target": wanted}
        for i, array in enumerate(arrays):
            columns |= {f"infer_{i}": array[:rows], f"train_{i}": array[:size]}
        np.savez(samples, **columns)
        job = {
            "job": "train",
            "script": _SCRIPT,
            "path": str(written.path.absolute()),
            "samples": str(samples),
            "outputs": str(outputs),
            "names": names[0],
            "output": names[1][0],
            "learning_rate": rate,
            "steps": _STEPS,
        }
        try:
            WORKER.run(job)
        except ConverterFailure as failure:
            raise failure.as_error(
                "The training of the file does not run in LiteRT.", "tell us of it"
            ) from None
        with np.load(outputs) as stored:
            found = dict(stored)
    kernel, *bias = last.layer.get_weights()
    before = {"kernel": kernel, "bias": bias[0] if bias else np.zeros(units)}
    for name, value in expected.items():
        learned = float(np.abs(value - before[name]).max(initial=0.0))
        limit = share * learned + _ROUNDING * float(np.abs(value).max(initial=1.0))
        apart = float(np.abs(found[name] - value).max(initial=0.0))
        if not apart <= limit:
            raise ExportError(
                "The file does not train as SGD does.",
                received=f"{name} off by {apart:.3g} after {_STEPS} steps",
                expected=f"at most {limit:.3g}, where it moved by {learned:.3g}",
                fix='if the other layers have weights alone in integers ("w8", "w4"), '
                'pass compute="float"',
            )
    if not np.array_equal(found["after"], found["restored"]):
        raise ExportError(
            "Weights that are saved and restored give other outputs.",
            received=f"{np.abs(found['after'] - found['restored']).max():.3g} apart",
            expected="equal outputs",
        )


def _trained(
    last: Any, loss: str, features: np.ndarray, wanted: np.ndarray, rate: float
) -> dict[str, np.ndarray]:
    """Returns the weights after some steps of SGD."""
    kernel, *bias = (value.astype("float64") for value in last.layer.get_weights())
    offset = bias[0] if bias else np.zeros(kernel.shape[-1])
    rows = features.astype("float64")
    if loss == "sparse_categorical_crossentropy":
        wanted = np.eye(kernel.shape[-1])[wanted]
    for _ in range(_STEPS):
        made = rows @ kernel + offset
        if loss == "mean_squared_error":
            gradient = 2 * (made - wanted) / made.size
        else:
            power = np.exp(made - made.max(-1, keepdims=True))
            gradient = (power / power.sum(-1, keepdims=True) - wanted) / len(rows)
        kernel = kernel - rate * rows.T @ gradient
        offset = offset - rate * gradient.sum(0)
    return {"kernel": kernel, "bias": offset}
