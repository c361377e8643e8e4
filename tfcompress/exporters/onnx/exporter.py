"""The "onnx" format: one file for ONNX Runtime and everything else that reads ONNX."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from tfcompress.child.probing import require
from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.arguments import integer, one_of
from tfcompress.core.errors import ArtifactError, ExportError
from tfcompress.core.ownership import scratch
from tfcompress.core.select import walk
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import (
    check_batch_size,
    check_no_calibration,
    check_suffix,
)
from tfcompress.exporters.comparing import Bound, compared
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.jail import JailedRunner, open_in_jail
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import made_here
from tfcompress.exporters.onnx.graph import (
    ZERO_POINTS,
    census,
    describe,
    tidy,
    unknown_operators,
)
from tfcompress.exporters.onnx.weight_only import with_integer_weights
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.saved_model.files import write_saved_model
from tfcompress.exporters.saved_model.graph import open_functions
from tfcompress.exporters.shares import share_in_integers
from tfcompress.exporters.tracing import TracedModel, trace
from tfcompress.exporters.weights_alone import bound_of
from tfcompress.layers import refuse
from tfcompress.quantization.weight_only import is_weight_only

_SCRIPT = str(Path(__file__).with_name("_worker.py"))
_OPSETS = (13, 18)


@EXPORTERS.register("onnx")
@dataclass(frozen=True)
class ONNXExporter(Exporter):
    """Writes an .onnx file, by tf2onnx.

    Names are those of the model. Fake quantization becomes pairs of `QuantizeLinear`
    and `DequantizeLinear` (QDQ), kernels become 8-bit integers.

    Args:
        batch_size: samples per call; None leaves it free.
        opset: version of the ONNX operator set, from 13 (channels with scales of their
            own) to 18. A file with weights of 4 bits has 21 in any case.
        overwrite: whether an existing file may be replaced.
        exact_sums: whether sums of two tensors, averages and resized pictures of a
            quantized model are rounded as LiteRT rounds them, in float64. Without it
            those half-way between two values may go the other way, of which layers
            behind make several steps; and sums cost less.
        kernels: how the kernels of a quantized model are stored: "uint8" with zero
            point 128, or "int8" with zero point 0, which TensorRT and other
            accelerators ask for. ONNX Runtime's kernels for int8 saturate on x86
            processors without VNNI.
    """

    batch_size: int | None = None
    opset: int = 18
    overwrite: bool = False
    exact_sums: bool = True
    kernels: str = "uint8"

    one_file: ClassVar[bool] = True
    runtime_module: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("tf2onnx", "onnx", "onnxruntime")
    limits: ClassVar[Limits] = Limits(
        "ONNX Runtime",
        activations=(8,),
        keeps_states=False,
        layers=refuse(
            {
                "Discretization": "tf2onnx writes an operator that ONNX does not have",
                "MelSpectrogram": "tf2onnx takes no Fourier transform but its "
                "magnitude",
            },
            "onnx",
        ),
    )

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        check_no_calibration("onnx", calibration_data)
        check_batch_size(self.batch_size)
        check_suffix(filepath, ".onnx")
        integer(self.opset, "Bad `opset`.", *_OPSETS)
        one_of(self.kernels, "Unknown `kernels`.", tuple(ZERO_POINTS))
        require("onnxruntime", "onnx")
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model, with sums that are rounded in the graph."""
        # ONNX Runtime adds in floats, and a sum near the middle goes the other way.
        exact = ("additions", "averages") if self.exact_sums else ()
        traced = trace(
            model, self.batch_size, input_signature, convertible=True, exact=exact
        )
        _check_names(traced)
        return Source(model, traced, self.batch_size, input_signature)

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Converts the model in the child process and compares the file with it."""
        stage.write_bytes(self.content(source))
        written = self.inspect(stage)
        floats = bound_of(source.model, "integer")
        bound = Bound(0.05) if source.traced.fake_quantized else floats
        noted = compared(source.tried, written, "ONNX Runtime", bound, script=_SCRIPT)
        return written, noted

    def matches(self, filepath: Path) -> bool:
        """Returns whether the file is called .onnx."""
        return filepath.is_file() and filepath.suffix.lower() == ".onnx"

    def inspect(self, filepath: Path) -> Artifact:
        """Returns inputs, outputs and census of the file."""
        import onnx

        try:
            model = onnx.load(filepath)
            inputs, outputs = describe(model)
            if not outputs:
                raise ValueError("it has no outputs")
            operators = census(model)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ArtifactError(
                "The .onnx file is damaged or truncated.",
                received=f"{filepath} ({reason})",
                expected="a whole ONNX model",
                fix="export the model again, or copy the file again",
            ) from error
        return Artifact(
            path=filepath,
            format="onnx",
            inputs=inputs,
            outputs=outputs,
            files=(filepath,),
            operators=operators,
        )

    def share_in_integers(self, artifact: Artifact) -> float | None:
        """Returns the share of multiply-accumulates on integers, here and now."""
        return share_in_integers(artifact.path, _SCRIPT)

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns an ONNX Runtime runner, for strangers' files in the child process."""
        require("onnxruntime", "onnx")
        artifact = self.inspect(filepath)
        if made_here(filepath):
            return ONNXRunner(artifact, threads)
        open_in_jail(filepath, "ONNX Runtime", _SCRIPT)
        return JailedRunner(artifact, filepath, "ONNX Runtime", _SCRIPT, threads)

    def trusted_runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns an ONNX Runtime runner at once."""
        require("onnxruntime", "onnx")
        return ONNXRunner(self.inspect(filepath), threads)

    def content(self, source: Source) -> bytes:
        """Returns the file of a model, as the child process converts it."""
        content = self._converted(source.traced)
        _check_operators(content, source.model)
        weights_alone = is_weight_only(source.model)
        return with_integer_weights(content) if weights_alone else content

    def _converted(self, traced: TracedModel) -> bytes:
        with scratch() as folder:
            output = Path(folder) / "model.onnx"
            write_saved_model(traced, Path(folder) / "saved_model")
            open_functions(Path(folder) / "saved_model")
            try:
                WORKER.run(
                    {
                        "job": "convert",
                        "script": _SCRIPT,
                        "saved_model": str(Path(folder) / "saved_model"),
                        "output": str(output),
                        "opset": self.opset,
                    }
                )
            except ConverterFailure as failure:
                if "FakeQuant" in failure.message:
                    raise failure.as_error(
                        "tf2onnx takes no model that is still in training.",
                        "export tfcompress.finalize(model)",
                        "ranges that are constants",
                    ) from None
                raise failure.as_error(
                    "tf2onnx could not convert the model; nothing was written.",
                    'replace the layer it names, or use format="saved_model"; of '
                    "quantized models it takes 8-bit activations",
                ) from None
            return tidy(
                output.read_bytes(),
                [tensor.name for tensor in traced.inputs],
                [tensor.name for tensor in traced.outputs],
                self.kernels,
            )


def _check_names(traced: TracedModel) -> None:
    """Raises where an output has the name of an input, which ONNX does not allow."""
    both = {info.name for info in traced.inputs} & {i.name for i in traced.outputs}
    if both:
        raise ExportError(
            "In ONNX no output can have the name of an input.",
            received=", ".join(map(repr, sorted(both))),
            expected="names of their own for all inputs and outputs",
            fix="give the outputs of the model other names",
        )


def _check_operators(content: bytes, model: keras.Model) -> None:
    """Raises `ExportError` if tf2onnx left operators of TensorFlow in the file."""
    strangers = unknown_operators(content)
    if not strangers:
        return
    names = {layer.name for _, layer in walk(model)}
    raise ExportError(
        f"ONNX has no such operators: {', '.join(sorted(set(strangers.values())))}.",
        received="; ".join(
            f"{operator} of {layer_of(path, names) or f'operation {path!r}'}"
            for path, operator in strangers.items()
        ),
        expected="operators that tf2onnx can write in ONNX",
        fix='replace the layer, or use format="saved_model" or "tflite"',
    )


def layer_of(path: str, names: set[str]) -> str:
    """Returns the innermost layer in the path of a node; empty if it has none of them.

    Args:
        path: the node's name in TensorFlow's graph.
        names: those of all layers.
    """
    for part in reversed(path.split("/")):
        # Keras numbers the names of layers that are called more than once.
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in names:
                return f"layer {name!r}"
    return ""


class ONNXRunner(Runner):
    """Runs an .onnx file in ONNX Runtime, on the CPU.

    Args:
        artifact: the file's description.
        threads: CPU threads; None leaves the choice to the runtime.
    """

    takes_many_calls = True

    def __init__(self, artifact: Artifact, threads: int | None = None):
        import onnxruntime

        super().__init__(artifact.inputs, artifact.outputs)
        self.name, self.threads = artifact.name, threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(
            str(artifact.path), options, providers=["CPUExecutionProvider"]
        )

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that runs the session."""
        names = [info.name for info in self.outputs]

        def once() -> dict[str, np.ndarray]:
            return dict(zip(names, self._session.run(names, batch)))

        return once
