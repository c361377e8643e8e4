"""The two functions of the room: `export` a model, `load` an artifact."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import keras

from tfcompress.core.arguments import one_of, path_of
from tfcompress.core.errors import ExportError, InvalidArgumentError, warn
from tfcompress.core.samples import at_the_beginning, states_of
from tfcompress.core.select import (
    refuse_keras_quantization,
    rounded_by_keras,
    walk,
)
from tfcompress.core.workers import require_chief
from tfcompress.exporters.artifact import (
    EXPORTERS,
    Artifact,
    Format,
    exporter_for,
    get_exporter,
)
from tfcompress.exporters.comparing import checking
from tfcompress.exporters.float_file.exporter import export_file
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.signatures import signatures_of
from tfcompress.exporters.training import OnDeviceTraining
from tfcompress.quantization.fake_quantize import FakeQuantize

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tfcompress.exporters.options import (
        CoreMLOptions,
        EthosUOptions,
        ExecuTorchOptions,
        FloatFileOptions,
        MicroOptions,
        ONNXOptions,
        OpenVINOOptions,
        QNNOptions,
        SavedModelOptions,
        TFLiteOptions,
        WebOptions,
    )

Several: TypeAlias = Mapping[str, keras.Model] | OnDeviceTraining
Check: TypeAlias = Literal["error", "warn", "off"]


@overload
def export(
    model: keras.Model | Several,
    filepath: str | os.PathLike,
    format: Literal["tflite"] = "tflite",
    input_signature: Any = None,
    calibration_data: Any = None,
    check: Check = "error",
    **options: Unpack[TFLiteOptions],
) -> Artifact: ...
@overload
def export(
    model: str | os.PathLike,
    filepath: str | os.PathLike,
    format: Literal["tflite"] = "tflite",
    input_signature: None = None,
    calibration_data: Any = None,
    check: Check = "error",
    **options: Unpack[FloatFileOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["saved_model"],
    input_signature: Any = None,
    *,
    check: Check = "error",
    **options: Unpack[SavedModelOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["onnx"],
    input_signature: Any = None,
    *,
    check: Check = "error",
    **options: Unpack[ONNXOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["openvino"],
    input_signature: Any = None,
    *,
    check: Check = "error",
    **options: Unpack[OpenVINOOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["micro"],
    input_signature: Any = None,
    calibration_data: Any = None,
    check: Check = "error",
    **options: Unpack[MicroOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["ethos_u"],
    input_signature: Any = None,
    calibration_data: Any = None,
    check: Check = "error",
    **options: Unpack[EthosUOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["qnn"],
    input_signature: Any = None,
    *,
    check: Check = "error",
    **options: Unpack[QNNOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["executorch"],
    input_signature: Any = None,
    *,
    check: Check = "error",
    **options: Unpack[ExecuTorchOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["web"],
    input_signature: Any = None,
    *,
    check: Check = "error",
    **options: Unpack[WebOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model,
    filepath: str | os.PathLike,
    format: Literal["coreml"],
    input_signature: Any = None,
    *,
    check: Check = "error",
    **options: Unpack[CoreMLOptions],
) -> Artifact: ...
@overload
def export(
    model: keras.Model | Several | str | os.PathLike,
    filepath: str | os.PathLike,
    format: str | Format,
    input_signature: Any = None,
    calibration_data: Any = None,
    check: Check = "error",
    **options: Any,
) -> Artifact: ...
def export(
    model: keras.Model | Several | str | os.PathLike,
    filepath: str | os.PathLike,
    format: str | Format = "tflite",
    input_signature: Any = None,
    calibration_data: Any = None,
    check: Check = "error",
    **options: Any,
) -> Artifact:
    """Writes a model to disk in a deployment format.

    Use it after `finalize`, to ship a model to a phone (`"tflite"`, `"coreml"`,
    `"executorch"`), a server (`"saved_model"`, `"onnx"`, `"openvino"`), a browser
    (`"web"`), a microcontroller (`"micro"`), or an NPU (`"ethos_u"`, `"qnn"`). A JSON
    manifest is written with it. The file or directory appears complete or not at all,
    and the model stays as it was. The format is never guessed from the path.

    Inputs have the names of the model's `keras.Input`s; those that you did not name
    become `input_1`, `input_2` ... A single output has the name of the last layer, or
    `output` if you did not name that; the outputs of a dict keep their keys; those of a
    list have the names of their layers if you named all of these, and otherwise are
    `output_0`, `output_1` ...

    Args:
        model: a built `keras.Model`; or the path of a float .tflite file, which is
            rounded to another .tflite file with `calibration_data`, or with `quantize`
            alone (`pip install 'tfcompress[quantizer]'`, docs/shipping.md); or, for a
            .tflite file with several signatures, a dict of models by their names, or
            `OnDeviceTraining`.
        filepath: where to write: `name.tflite`, `name.onnx`, `name.mlpackage` for
            "coreml", `name.pte` for "executorch", `<base>/<version>` for a SavedModel,
            a directory for "openvino", "micro", "ethos_u", "qnn" and "web". Missing
            parent directories are made.
        format: "tflite", "saved_model", "onnx", "openvino", "micro", "ethos_u", "qnn",
            "coreml", "executorch", "web", or an exporter instance.
        input_signature: the inputs as `tf.TensorSpec`, `keras.InputSpec` or arrays,
            in the structure `model` is called with. Needed for subclassed models. A
            dict with a whole signature for each key, such as `{"short": a, "long": b}`,
            gives a .tflite file with these signatures.
        calibration_data: "tflite", "micro" and "ethos_u" only: samples (an array, a
            dict or list of arrays, or a `tf.data.Dataset`) from which a float model
            gets its integer ranges; up to 1000 are used. A dict by signature where
            there are several.
        check: what is done where the artifact, run on a few samples before it
            appears, is off the model by more than its format's bound: "error" (nothing
            is written), "warn" (it is written, and the difference is told), or "off"
            (nothing is compared, for models that take long).
        **options: options of the format. "tflite": `batch_size=1` (None: free),
            `io_dtype="float32"` ("int8", "uint8"), `overwrite=False`,
            `quantize=None` ("float16", "dynamic"), `compile_for=None`
            ("qualcomm:SM8750"). Of a .tflite file:
            `scheme="w8a8"` ("w8a16"), `io_dtype="float32"` ("int8"), `quantize=None`,
            `overwrite=False`. "saved_model": `version=None`, `batch_size=None`.
            "onnx": `batch_size=None`, `opset=18`, `overwrite=False`. "openvino":
            `batch_size=None`, `float16=False`. "micro": `arena_margin=0`.
            "ethos_u": `npu="u55-128"`, `memory_mode=None`. "qnn": `soc="sm8750"`,
            `batch_size=1`. "coreml": `batch_size=1`, `float16=False`,
            `minimum_deployment_target="iOS18"`. "executorch": `batch_size=1`,
            `overwrite=False`. "web": `litertjs=None`. The exporters' classes have all
            of them.

    Returns:
        An `Artifact`.

    Raises:
        InvalidArgumentError: if the model is not built or an option is wrong, or on
            a worker of a job that is not its chief.
        ExportError: if the output exists, the disk refuses, the converter fails, or
            the artifact does not compute what the model does.

    Example:

    ```python
    phone = tfcompress.export(model, "student.tflite")
    server = tfcompress.export(model, "savedmodels/student/1", format="saved_model")
    print(phone.size, phone.integer_coverage)
    ```
    """
    if isinstance(model, str | os.PathLike):
        require_chief("export a model")
        target = _target(filepath)
        given = (format, input_signature, calibration_data, options)
        with checking(check):
            return export_file(model, target, *given)
    signatures = signatures_of(model, input_signature)
    models = [one.model for one in signatures] or [model]
    exporter = get_exporter(format)
    for one in models:
        _check_model(one, exporter, format)
    target, writer = _target(filepath), exporter.with_options(options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(checking(check))
        for one in models:
            stack.enter_context(at_the_beginning(one))
        if signatures:
            return writer.export_signatures(signatures, target, calibration_data)
        return writer.export(model, target, input_signature, calibration_data)


def _check_model(model: Any, exporter: Format, format: Any) -> None:
    """Raises, or warns, where a format cannot take a model as it is."""
    require_chief("export a model", model)
    if not isinstance(exporter, EXPORTERS.class_of("saved_model")):
        refuse_keras_quantization(model, f"export to {format!r}")
    elif rounded := rounded_by_keras(model):
        warn(
            f"Keras' own `model.quantize` has rounded {rounded}. A SavedModel stores "
            "their integers and computes in floats: that of the float model may be "
            "faster, and smaller where layers are small. tfcompress.calibrate(model, "
            "data) makes integers that devices compute with."
        )
    _refuse_states(model, exporter)
    _refuse_bits(model, exporter)


def _refuse_states(model: Any, exporter: Format) -> None:
    stateful = [] if exporter.limits.keeps_states else list(states_of(model))
    if stateful:
        raise ExportError(
            f"{exporter.limits.runtime} keeps no state from call to call.",
            received=f"stateful layers: {', '.join(stateful)}",
            expected="layers whose states come in and go out with each call",
            fix="build them with `return_state=True` and hand the states to the next "
            "call as `initial_state`; or export to LiteRT or a SavedModel",
        )


def _refuse_bits(model: Any, exporter: Format) -> None:
    known = exporter.limits.activations
    for _, layer in walk(model) if known and isinstance(model, keras.Layer) else ():
        if isinstance(layer, FakeQuantize) and layer.num_bits not in known:
            raise ExportError(
                f"{exporter.limits.runtime} has no activations of {layer.num_bits} "
                "bits.",
                received=f"layer '{layer.name}' of {layer.num_bits} bits",
                expected=f"activations of {' or '.join(map(str, known))} bits",
                fix="quantize with scheme='w8a8', or export to another format",
            )


def _target(filepath: str | os.PathLike) -> Path:
    path = path_of(filepath, "filepath")
    if path.name in ("", ".."):
        raise InvalidArgumentError(
            "The path does not name what is to be written.",
            received=repr(str(filepath)),
            expected="a path that ends in the name of a file or directory",
        )
    # "a/../b" would make the directory "a" on the way.
    return path.resolve() if ".." in path.parts else path


def load(
    filepath: str | os.PathLike | Artifact,
    threads: int | None = None,
    trusted: bool = False,
    signature: str | None = None,
) -> Runner:
    """Loads an artifact, ready to run.

    Use it to run what was exported, in the runtime it was exported for. Files that this
    process has not written are untrusted: those that may do harm (SavedModels, and
    files with loops or free sizes) run in a child process with limits of time and
    memory. See docs/safety.md.

    Args:
        filepath: an `Artifact`, or the path of one. For a SavedModel, a version
            directory or the base directory (the newest version is taken).
        threads: CPU threads; None leaves the choice to the runtime.
            A SavedModel always runs on TensorFlow's own threads.
        trusted: True runs the file in this process without checking it: for files that
            were made by you or by someone you trust.
        signature: which of several signatures to run, such as "short"; None for the
            first. `runner.with_signature(name)` gives another one that shares what the
            runtime keeps between calls.

    Returns:
        A `Runner`: `runner(arrays)` takes an array, a list or a dict by input name,
        samples along the first axis, and returns an array (one output) or a dict.

    Raises:
        ArtifactError: if nothing is there, or it is damaged.
        InvalidArgumentError: if it has no such signature.

    Example:

    ```python
    runner = tfcompress.load("student.tflite")
    probabilities = runner(images)
    ```
    """
    path = path_of(filepath, "filepath")
    one_of(trusted, "`trusted` is true or false.", (True, False))
    exporter = exporter_for(path)
    made = exporter.trusted_runner if trusted else exporter.runner
    runner = made(path, threads)
    return runner if signature is None else runner.with_signature(signature)
