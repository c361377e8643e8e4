"""The "coreml" format: an ML program (.mlpackage) for iPhones, iPads and Macs."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfcompress.child.probing import MEMORY, require
from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.arguments import integer, one_of
from tfcompress.core.errors import (
    ArtifactError,
    ExportError,
    warn,
)
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_no_calibration, check_suffix
from tfcompress.exporters.comparing import Bound, compared
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.jail import open_in_jail
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.manifest_file import manifest_path
from tfcompress.exporters.operations import layers_with
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.saved_model.files import write_saved_model
from tfcompress.exporters.saved_model.graph import open_functions
from tfcompress.exporters.tensors import OperatorCount, TensorInfo
from tfcompress.exporters.tracing import TracedModel, trace
from tfcompress.layers import refuse

_SCRIPT = str(Path(__file__).with_name("_worker.py"))
_SUFFIX = ".mlpackage"
_TARGETS = ("iOS17", "iOS18", "iOS26")
_RUNTIME = "Core ML"
_LOOPS = "coremltools takes its loop only with `unroll=True`, or in a quantized model"
# What a conversion may take: seconds of processor time.
_CPU_SECONDS = 1800


@EXPORTERS.register("coreml")
@dataclass(frozen=True)
class CoreMLExporter(Exporter):
    """Writes a .mlpackage, by coremltools (`pip install 'tfcompress[coreml]'`).

    What was trained stays in it: shared values are palettes, zeros are sparse weights
    where that is smaller, kernels of a quantized model are integers of 8 or 4 bits with
    their scales, and its ranges are `quantize` and `dequantize`. Each weight is read
    back from the package. Core ML itself runs on Apple's systems only, so the program
    is compared with the model by evaluating its operators, not by running it.

    Args:
        batch_size: samples per call.
        minimum_deployment_target: the oldest system that is to run it: "iOS17",
            "iOS18" or "iOS26", or the macOS of the same year. Integers of 4 bits,
            and palettes or integers of weights with zeros, need "iOS18".
        float16: whether floats have 16 bits, as the Neural Engine computes. Without
            it, Core ML runs the model on the CPU or the GPU.
    """

    batch_size: int = 1
    minimum_deployment_target: str = "iOS18"
    float16: bool = False

    trial_name: ClassVar[str] = f"model{_SUFFIX}"
    runtime_module: ClassVar[str] = "coremltools"
    packages: ClassVar[tuple[str, ...]] = ("coremltools",)
    measured_as: ClassVar[str] = "tflite"
    limits: ClassVar[Limits] = Limits(
        _RUNTIME,
        activations=(8,),
        dynamic_batch=False,
        keeps_states=False,
        layers=refuse(dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), _LOOPS), "coreml"),
    )

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        check_no_calibration("coreml", calibration_data)
        integer(
            self.batch_size, "Bad `batch_size`.", low=1, expected="1, 2, 3 ... samples"
        )
        one_of(
            self.minimum_deployment_target,
            "Unknown `minimum_deployment_target`.",
            _TARGETS,
        )
        check_suffix(filepath, _SUFFIX)
        require("coremltools", "coreml")
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model, traced as converters understand it."""
        traced = trace(model, self.batch_size, input_signature, convertible=True)
        _check_inputs(traced)
        return Source(model, traced, self.batch_size, input_signature)

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Converts the model in the child process and evaluates the package."""
        self._convert(source.traced, stage)
        manifest_path(stage).parent.mkdir()
        written = self.inspect(stage)
        integers = source.traced.fake_quantized
        bound = Bound(0.05 if integers or self.float16 else 1e-3)
        if integers and self.float16:
            # Floats of 16 bits between the roundings go to the other side of a half.
            bound = Bound(0.05, average=True, steps=False)
        evaluated = "an evaluation of its operators"
        try:
            noted = compared(source.tried, written, evaluated, bound, script=_SCRIPT)
        except ExportError as error:
            missing = re.search(r"NotEvaluated: (\w+)", str(error))
            if missing is None:
                raise
            warn(
                f"The package was not compared with the model: operator "
                f"{missing[1]!r} is computed by Core ML only, on Apple's systems. Its "
                "weights were read back and are the model's. Compare it on a Mac with "
                "`tfcompress.verify`."
            )
            noted = {"samples": 0, "bound": None}
        return written, noted

    def matches(self, filepath: Path) -> bool:
        """Returns whether the path is a package of Core ML."""
        package = filepath.suffix.lower() == _SUFFIX
        return package and (filepath / "Manifest.json").is_file()

    def inspect(self, filepath: Path) -> Artifact:
        """Returns inputs, outputs and census, as read by the child process."""
        require("coremltools", "coreml")
        found = open_in_jail(filepath, "coremltools", _SCRIPT)
        note = manifest_path(filepath)
        files = (p for p in filepath.rglob("*") if p.is_file() and p != note)
        return Artifact(
            path=filepath,
            format="coreml",
            inputs=tuple(_info(one) for one in found["inputs"]),
            outputs=tuple(_info(one) for one in found["outputs"]),
            files=tuple(sorted(files)),
            operators=tuple(
                OperatorCount(name, (), tuple(weights), count)
                for name, weights, count in found["operators"]
            ),
        )

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a Core ML runner, where Core ML is.

        Raises:
            ArtifactError: on other systems than macOS.
        """
        if sys.platform != "darwin":
            raise ArtifactError(
                "Core ML runs on macOS and iOS only; the package was not run.",
                received=f"{filepath} on {sys.platform}",
                expected="macOS, or an app on an iPhone or iPad",
                fix="load or verify it on a Mac; what can be compared without Core ML "
                "was compared when it was exported: its weights, and its operators as "
                "coremltools evaluates them",
            )
        check_files(filepath)
        return CoreMLRunner(self.inspect(filepath))

    def _convert(self, traced: TracedModel, output: Path) -> None:
        with scratch() as folder:
            saved = Path(folder) / "saved_model"
            write_saved_model(traced, saved)
            open_functions(saved)
            size = sum(f.stat().st_size for f in saved.rglob("*") if f.is_file())
            try:
                WORKER.run(
                    {
                        "job": "convert",
                        "script": _SCRIPT,
                        "saved_model": str(saved),
                        "output": str(output),
                        "inputs": [tensor.name for tensor in traced.inputs],
                        "outputs": [tensor.name for tensor in traced.outputs],
                        "target": self.minimum_deployment_target,
                        "float16": self.float16,
                        "cpu_seconds": _CPU_SECONDS,
                        "memory": 2 * MEMORY + 32 * size,
                    }
                )
            except ConverterFailure as failure:
                raise _refused(failure, traced) from None


def _check_inputs(traced: TracedModel) -> None:
    """Raises for inputs that a Core ML program does not have."""
    for info in traced.inputs:
        if None in info.shape:
            raise ExportError(
                f"Core ML needs to know every size of input {info.name!r}.",
                received=f"shape {info.shape}",
                expected="sizes that are numbers",
                fix="pass `input_signature=[tf.TensorSpec((None, 128, 3))]` with the "
                "sizes that the app will use",
            )
        if info.dtype not in ("float32", "float16", "int32"):
            raise ExportError(
                f"Core ML has no inputs such as {info.name!r}.",
                received=info.dtype,
                expected="float32, float16 or int32",
                fix="let the application turn texts and other numbers into these",
            )
    both = {info.name for info in traced.inputs} & {i.name for i in traced.outputs}
    if both:
        raise ExportError(
            "In Core ML no output can have the name of an input.",
            received=", ".join(map(repr, sorted(both))),
            expected="names of their own for all inputs and outputs",
            fix="give the outputs of the model other names",
        )


def _refused(failure: ConverterFailure, traced: TracedModel) -> ExportError:
    """Returns the error for a failed conversion, with the layer that is to blame."""
    unknown = re.search(
        r"Conversion for TF op '(\w+)' not implemented", failure.message
    )
    loops = layers_with(traced.function, traced.model, ("While", "StatelessWhile"))
    looping = ", ".join(f"layer {path!r}" for path in loops if path)
    if unknown is None and looping and not failure.died:
        return failure.as_error(
            f"coremltools cannot convert the loop of {looping}; nothing was written.",
            "build it with `unroll=True`, or export the quantized model, which has no "
            'loop, or use format="tflite"',
        )
    if unknown is None:
        return failure.as_error(
            "coremltools could not convert the model; nothing was written.",
            "replace the layer it names, build recurrent layers with `unroll=True`, or "
            'use format="tflite"',
        )
    layers = layers_with(traced.function, traced.model, [unknown[1]])
    places = ", ".join(f"layer {path!r}" for path in layers if path)
    error = ExportError(
        f"coremltools has no form of TensorFlow's operation {unknown[1]}.",
        received=places or f"operation {unknown[1]} of model {traced.model.name!r}",
        expected="layers whose operations coremltools knows",
        fix='replace the layer, or use format="tflite", which Core ML\'s delegate runs',
    )
    error.log = failure.log
    return error


def _info(described: dict[str, Any]) -> TensorInfo:
    shape = tuple(described["shape"])
    step = described.get("step")
    return TensorInfo(described["name"], shape, described["dtype"], step=step)


def decompressed(artifact: Artifact) -> dict[str, np.ndarray]:
    """Returns the weights of a package, as coremltools decompresses them.

    Use it to prove on any system what a package holds. Kernels have the axes that Core
    ML wants: of a convolution the filters come first.

    Args:
        artifact: a "coreml" artifact.

    Returns:
        The weights by the names of their tensors.

    Raises:
        ArtifactError: if it is damaged.

    Example:

    ```python
    package = tfcompress.export(model, "app.mlpackage", format="coreml")
    kernels = decompressed(package)
    ```
    """
    require("coremltools", "coreml")
    return open_in_jail(artifact.path, "coremltools", _SCRIPT, job="weights")["arrays"]


class CoreMLRunner(Runner):
    """Runs a .mlpackage in Core ML, on macOS.

    Args:
        artifact: the package's description.
    """

    def __init__(self, artifact: Artifact):
        import coremltools

        super().__init__(artifact.inputs, artifact.outputs)
        self.name = artifact.name
        self._model = coremltools.models.MLModel(str(artifact.path))

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that predicts."""

        def once() -> dict[str, np.ndarray]:
            found = self._model.predict(batch)
            return {info.name: np.asarray(found[info.name]) for info in self.outputs}

        return once
