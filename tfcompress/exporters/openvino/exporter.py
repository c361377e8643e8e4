"""The "openvino" format: an IR (model.xml, model.bin) for Intel processors."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfcompress.child.probing import probe, require
from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.errors import ArtifactError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import (
    check_batch_size,
    check_folder,
    check_no_calibration,
)
from tfcompress.exporters.comparing import Bound, compared
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.jail import JailedRunner, open_in_jail
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.saved_model.files import write_saved_model
from tfcompress.exporters.shares import share_in_integers
from tfcompress.exporters.tensors import OperatorCount, TensorInfo
from tfcompress.exporters.tflite.exporter import TFLiteExporter
from tfcompress.exporters.tracing import TracedModel, trace
from tfcompress.layers import refuse

_SCRIPT = str(Path(__file__).with_name("_worker.py"))
_FILES = ("model.xml", "model.bin")


@EXPORTERS.register("openvino")
@dataclass(frozen=True)
class OpenVINOExporter(Exporter):
    """Writes a directory with `model.xml` and `model.bin`.

    A float model goes through a SavedModel, so that recurrent layers work. A model
    with fake quantization goes through a .tflite file, whose integers stay integers.
    `<base>/<version>` is the layout that OpenVINO Model Server watches.

    Args:
        batch_size: samples per call; None leaves it free.
        float16: whether to store float weights in half the bytes.
    """

    batch_size: int | None = None
    float16: bool = False

    runtime_module: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    limits: ClassVar[Limits] = Limits(
        "OpenVINO",
        activations=(8,),
        keeps_states=False,
        layers=refuse(
            {"Conv3D": "stays float in a quantized model"},
            "openvino",
        ),
    )

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        check_no_calibration("openvino", calibration_data)
        check_batch_size(self.batch_size)
        check_folder(
            filepath, "An OpenVINO artifact is a directory.", "student_openvino"
        )
        require("openvino", "openvino")
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model, traced as converters understand it."""
        traced = trace(model, self.batch_size, input_signature, convertible=True)
        return Source(model, traced, self.batch_size, input_signature)

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Converts the model in the child process and compares the IR with it."""
        stage.mkdir()
        self._convert(source.traced, stage / _FILES[0])
        written = self.inspect(stage)
        file = replace(written, path=stage / _FILES[0])
        # Its conversion to 16 bits is of weights; its integers are LiteRT's.
        bound = Bound(0.05 if source.traced.fake_quantized or self.float16 else 1e-3)
        return written, compared(source.tried, file, "OpenVINO", bound, script=_SCRIPT)

    def matches(self, filepath: Path) -> bool:
        """Returns whether the directory holds an IR."""
        return (filepath / _FILES[0]).is_file()

    def inspect(self, filepath: Path) -> Artifact:
        """Returns inputs, outputs and census, as read by the child process."""
        require("openvino", "openvino")
        found = self._found(filepath)
        stored = tuple(sorted(found["constants"]))
        return Artifact(
            path=filepath,
            format="openvino",
            inputs=tuple(_info(described) for described in found["inputs"]),
            outputs=tuple(_info(described) for described in found["outputs"]),
            files=tuple(filepath / name for name in _FILES),
            operators=tuple(
                OperatorCount(name, (), stored if name == "Constant" else (), count)
                for name, count in sorted(found["operators"].items())
            ),
        )

    def share_in_integers(self, artifact: Artifact) -> float | None:
        """Returns the share of multiply-accumulates on integers, here and now."""
        return share_in_integers(artifact.path / _FILES[0], _SCRIPT)

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns an OpenVINO runner, for strangers' files in the child process."""
        vouched = check_files(filepath)
        artifact = self.inspect(filepath)
        if vouched:
            return OpenVINORunner(artifact, threads)
        file = filepath / _FILES[0]
        return JailedRunner(artifact, file, "OpenVINO", _SCRIPT, threads)

    def trusted_runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns an OpenVINO runner here."""
        check_files(filepath)
        return OpenVINORunner(self.inspect(filepath), threads)

    def _found(self, directory: Path) -> dict[str, Any]:
        """Returns what the jailed child process says of the files."""
        self._check_whole(directory)
        return open_in_jail(directory / _FILES[0], "OpenVINO", _SCRIPT)

    def _probe(self, directory: Path, kind: type) -> dict[str, Any]:
        self._check_whole(directory)
        return probe(directory / _FILES[0], "OpenVINO", kind, script=_SCRIPT)

    def _check_whole(self, directory: Path) -> None:
        if not (directory / _FILES[1]).is_file():
            raise ArtifactError(
                "The OpenVINO artifact is not whole.",
                received=f"{directory} without {_FILES[1]}",
                expected=f"a directory with {' and '.join(_FILES)}",
                fix="export the model again, or copy the directory again",
            )

    def _convert(self, traced: TracedModel, output: Path) -> None:
        with scratch() as folder:
            if traced.fake_quantized:
                source = Path(folder) / "model.tflite"
                exporter = TFLiteExporter(batch_size=self.batch_size, int4="none")
                source.write_bytes(exporter.content(traced))
            else:
                source = Path(folder) / "saved_model"
                write_saved_model(traced, source)
            try:
                WORKER.run(
                    {
                        "job": "convert",
                        "script": _SCRIPT,
                        "source": str(source),
                        "output": str(output),
                        "name": "model",
                        "inputs": [tensor.name for tensor in traced.inputs],
                        "outputs": [tensor.name for tensor in traced.outputs],
                        "float16": self.float16,
                    }
                )
            except ConverterFailure as failure:
                if "iostream" in failure.reason:
                    # C++ says no more, and OpenVINO removes what it had written.
                    free = shutil.disk_usage(output.parent).free
                    raise OSError(
                        errno.EIO,
                        "OpenVINO could not write its files, where "
                        f"{free:,} bytes are free",
                    ) from None
                raise failure.as_error(
                    "OpenVINO could not convert the model; nothing was written.",
                    'replace the layer it names, or use format="onnx"',
                ) from None


class OpenVINORunner(Runner):
    """Runs an OpenVINO IR on the CPU, in float32 where it is not in integers.

    Args:
        artifact: the IR's description.
        threads: CPU threads; None leaves the choice to the runtime.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None):
        import openvino

        super().__init__(artifact.inputs, artifact.outputs)
        self.name, self.threads = artifact.name, threads
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self.compiled = openvino.Core().compile_model(
            str(artifact.path / _FILES[0]), "CPU", options
        )
        self._request = self.compiled.create_infer_request()

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that runs one inference request."""
        names = [info.name for info in self.outputs]

        def once() -> dict[str, np.ndarray]:
            found = self._request.infer(batch)
            return {name: np.array(found[name]) for name in names}

        return once


def _info(described: dict[str, Any]) -> TensorInfo:
    shape = tuple(described["shape"])
    step = described.get("step")
    return TensorInfo(described["name"], shape, described["dtype"], step=step)
