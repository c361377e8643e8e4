"""The "qnn" format: a program for the Hexagon NPU of one of Qualcomm's chips."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from tfcompress.child.probing import require
from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.arguments import integer
from tfcompress.core.errors import ArtifactError, ExportError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_folder, check_no_calibration
from tfcompress.exporters.comparing import Bound, compared
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.jail import JailedRunner, open_in_jail
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.onnx.exporter import ONNXExporter
from tfcompress.exporters.onnx.graph import describe
from tfcompress.exporters.qnn.borders import Borders
from tfcompress.exporters.qnn.chips import Chip, chip_of
from tfcompress.exporters.qnn.layers import Layers
from tfcompress.exporters.qnn.units import in_integer_units
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tensors import OperatorCount

_SCRIPT = str(Path(__file__).with_name("_worker.py"))
_MODEL, _PROGRAM = "model.onnx", "npu.json"
_RUNTIME = "Qualcomm's NPU library"
# Its factors between scales are coarse: each layer moves some values by a step, and the
# layers behind it add to that. What is broken is off by far more.
_BOUND = Bound(0.05, average=True, steps=False)
# What the compiler may take: seconds of processor time, bytes.
_CPU_SECONDS, _MEMORY = 1800, 16 << 30


@EXPORTERS.register("qnn")
@dataclass(frozen=True)
class QNNExporter(Exporter):
    """Writes a directory: `model.onnx`, a program for the NPU, and what it consists of.

    The program is for one chip and computes in integers only; the processor takes no
    part of it. It is one file, since an app has its models among its assets, where a
    second file beside the first could not be found. `npu.json` says which operators
    the NPU has, and of which layers they are.

    Args:
        soc: the chip, such as "sm8750" (a phone says its own by `adb shell getprop
            ro.soc.model`); or "v79", for any chip with this version of the NPU.
        batch_size: samples per call; the NPU takes no free number.
        exact_sums: whether convolutions, products and sums are computed in 16 bits and
            then rounded to 8: one value in some hundreds is a step off. Without it they
            are computed in 8 bits, which takes the NPU less time and memory, and the
            NPU rounds twice: each layer moves one value in fifty by a step.
    """

    soc: str | int = "sm8750"
    batch_size: int = 1
    exact_sums: bool = True

    runtime_module: ClassVar[str] = "onnxruntime_qnn"
    packages: ClassVar[tuple[str, ...]] = (
        *ONNXExporter.packages,
        "onnxruntime-qnn",
    )
    measured_as: ClassVar[str] = "onnx"
    limits: ClassVar[Limits] = Limits(
        _RUNTIME,
        activations=(8, 16),
        float_models=False,
        dynamic_batch=False,
        keeps_states=False,
        layers=ONNXExporter.limits.layers,
    )

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        check_no_calibration("qnn", calibration_data)
        chip_of(self.soc)
        expected = "1, 2, ...: the NPU takes no free number of samples"
        integer(self.batch_size, "Bad `batch_size`.", low=1, expected=expected)
        check_folder(filepath, "A program for an NPU is a directory.", "student_qnn")
        require("onnxruntime_qnn", "qnn")
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model, traced as it is converted to ONNX."""
        source = self._plain.source(model, input_signature, calibration_data)
        _check_integers(source)
        return source

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Compiles the model in the child process and runs what was compiled there."""
        stage.mkdir()
        content = in_integer_units(self._plain.content(source), self.exact_sums)
        borders = Borders(content)
        found = self._compiled(borders.inner, stage / _MODEL)
        layers = Layers.of(source.model, content)
        for node in (*found.get("refused", ()), *found.get("operators", ())):
            node["layer"] = layers.of_operator(node)
        _check_refused(found)
        _check_floats(found["operators"])
        whole = borders.joined((stage / _MODEL).read_bytes())
        (stage / _MODEL).write_bytes(whole)
        program = _program(chip_of(self.soc), found)
        (stage / _PROGRAM).write_text(json.dumps(program, indent=1), encoding="utf-8")
        written = self.inspect(stage)
        file = replace(written, path=stage / _MODEL)
        return written, compared(source.tried, file, _RUNTIME, _BOUND, script=_SCRIPT)

    def matches(self, filepath: Path) -> bool:
        """Returns whether the directory holds a program and what it consists of."""
        return all((filepath / name).is_file() for name in (_MODEL, _PROGRAM))

    def inspect(self, filepath: Path) -> Artifact:
        """Returns the description of the program."""
        require("onnx", "onnx")
        import onnx

        try:
            program = json.loads((filepath / _PROGRAM).read_text(encoding="utf-8"))
            inputs, outputs = describe(onnx.load(filepath / _MODEL))
            if not outputs:
                raise ValueError("it has no outputs")
            operators = _census(program["operators"])
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ArtifactError(
                "The program for the NPU is damaged or not whole.",
                received=f"{filepath} ({reason})",
                expected=f"a directory with {_MODEL} and {_PROGRAM}",
                fix="export the model again, or copy the directory again",
            ) from error
        return Artifact(
            path=filepath,
            format="qnn",
            inputs=inputs,
            outputs=outputs,
            files=(filepath / _MODEL, filepath / _PROGRAM),
            operators=operators,
            # With a part in floats it would not have been written.
            integer_coverage=1.0,
        )

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner of the NPU's library for x86, in the child process."""
        require("onnxruntime_qnn", "qnn")
        check_files(filepath)
        artifact = self.inspect(filepath)
        open_in_jail(filepath / _MODEL, _RUNTIME, _SCRIPT)
        return NPURunner(artifact, filepath / _MODEL, _RUNTIME, _SCRIPT, threads)

    @property
    def _plain(self) -> ONNXExporter:
        """The file that is compiled: rounding written out in floats is not integers.

        The NPU's kernels of channels with scales of their own are signed.
        """
        return ONNXExporter(self.batch_size, exact_sums=False, kernels="int8")

    def _compiled(self, content: bytes, output: Path) -> dict[str, Any]:
        chip = chip_of(self.soc)
        with scratch() as folder:
            plain = Path(folder) / _MODEL
            plain.write_bytes(content)
            try:
                return WORKER.run(
                    {
                        "job": "compile",
                        "script": _SCRIPT,
                        "source": str(plain),
                        "output": str(output),
                        "architecture": chip.architecture,
                        "number": chip.number,
                        "cpu_seconds": _CPU_SECONDS,
                        "memory": _MEMORY,
                    }
                )
            except ConverterFailure as failure:
                raise failure.as_error(
                    f"Qualcomm's compiler failed for {chip.name}; nothing was written.",
                    "export parts of the model alone to find the layer, or use "
                    'format="onnx" on the processor',
                ) from None


class NPURunner(JailedRunner):
    """Runs a program for the NPU in Qualcomm's library for x86, in the child process.

    It computes what the NPU computes, at a speed that says nothing of the NPU's.
    """

    simulates = "the NPU of a phone"


def _check_integers(source: Source) -> None:
    """Raises if the model has no integers, or an axis without a size."""
    if not source.traced.fake_quantized:
        raise ExportError(
            "The NPU is compiled for in integers only.",
            received="a float model",
            expected="a quantized and finalized model",
            fix="tfcompress.calibrate(model, data), or quantize_aware(model) and fit; "
            "then tfcompress.finalize",
        )
    for info in source.traced.inputs:
        if None in tuple(info.shape):
            raise ExportError(
                "The NPU takes no free sizes.",
                received=f"input {info.name!r} of shape {tuple(info.shape)}",
                expected="a size for each axis",
                fix="pass `input_signature` with all sizes, or build the model with "
                "`keras.Input` of a whole shape",
            )


def _check_refused(found: dict[str, Any]) -> None:
    """Raises `ExportError` if the NPU did not take all operators."""
    refused = found.get("refused")
    if refused:
        raise ExportError(
            f"The NPU does not take {len(refused)} of the model's operators.",
            received="; ".join(dict.fromkeys(map(_said, refused))),
            expected="a model that runs on the NPU as a whole",
            fix="replace the layer, or end the model before it and compute the rest in "
            "the application",
        )


def _check_floats(operators: list[dict[str, Any]]) -> None:
    """Raises `ExportError` if the NPU would compute a part in floats of 16 bits."""
    floats = [
        node
        for node in operators
        if any(dtype.startswith("float") for dtype in node["activations"])
    ]
    if floats:
        raise ExportError(
            "Part of the model would be computed in float.",
            received="; ".join(dict.fromkeys(map(_said, floats))),
            expected="a model whose every layer is quantized",
            fix="replace the layer; the warning of `quantize_aware` names those that "
            "stay float",
        )


def _said(node: dict[str, Any]) -> str:
    place = f"{node['type']} of {node['layer'] or 'operation ' + repr(node['name'])}"
    return f"{place} ({node['reason']})" if node.get("reason") else place


def _program(chip: Chip, found: dict[str, Any]) -> dict[str, Any]:
    """Returns what `npu.json` says."""
    return {
        "soc": chip.name,
        "htp_architecture": chip.architecture,
        "soc_model": chip.number,
        "qnn_sdk": found["sdk"],
        "operators": [
            {name: node[name] for name in ("type", "layer", "activations", "weights")}
            for node in found["operators"]
        ],
    }


def _census(operators: list[dict[str, Any]]) -> tuple[OperatorCount, ...]:
    kinds = Counter(
        (str(node["type"]), tuple(node["activations"]), tuple(node["weights"]))
        for node in operators
    )
    return tuple(OperatorCount(*kind, count) for kind, count in sorted(kinds.items()))
