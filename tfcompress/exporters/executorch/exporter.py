"""The "executorch" format: a .pte file for PyTorch's runtime on devices."""

from __future__ import annotations

import importlib.util
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfcompress.child.process import ConverterFailure, ConverterProcess
from tfcompress.core.arguments import integer
from tfcompress.core.errors import ArtifactError, ExportError
from tfcompress.core.ownership import at_the_end
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_no_calibration, check_suffix
from tfcompress.exporters.comparing import Bound, judged
from tfcompress.exporters.executorch.graph import Operators
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.jail import JailedRunner
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.onnx.exporter import ONNXExporter, layer_of
from tfcompress.exporters.onnx.graph import describe
from tfcompress.exporters.operations import named_paths
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tensors import OperatorCount, TensorInfo

#: Holds the Python of an environment with ExecuTorch, where it is not in this one.
PYTHON = "TFCOMPRESS_EXECUTORCH_PYTHON"
_SCRIPT = str(Path(__file__).with_name("_worker.py"))
_RUNTIME = "ExecuTorch"
# What is known of the model stands behind the program, which says where it ends.
_MARK = b"tfcompress.pte.1"
# What a conversion may take: seconds, bytes.
_SECONDS, _MEMORY = 1800, 16 << 30
# What a call may take.
_CALL_SECONDS = 300

TORCH = ConverterProcess(variable=PYTHON)
TORCH_JAIL = ConverterProcess(jailed=True, variable=PYTHON)
for _process in (TORCH, TORCH_JAIL):
    at_the_end(_process.close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_process.after_fork)


@EXPORTERS.register("executorch")
@dataclass(frozen=True)
class ExecuTorchExporter(Exporter):
    """Writes a .pte file, whose operators XNNPACK computes on phones and boards.

    The model's own scales and zero points are those of the file. It is made of the
    ONNX graph, whose operators PyTorch exports in a process of its own; that process
    may be another Python, which the variable TFCOMPRESS_EXECUTORCH_PYTHON names.

    Args:
        batch_size: samples per call.
        overwrite: whether an existing file may be replaced.
    """

    batch_size: int = 1
    overwrite: bool = False

    one_file: ClassVar[bool] = True
    runtime_module: ClassVar[str] = "executorch"
    packages: ClassVar[tuple[str, ...]] = ("tf2onnx", "onnx", "executorch", "torch")
    limits: ClassVar[Limits] = replace(
        ONNXExporter.limits, runtime=_RUNTIME, dynamic_batch=False
    )

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        check_no_calibration("executorch", calibration_data)
        integer(self.batch_size, "Bad `batch_size`.", low=1, expected="1, 2, ...")
        check_suffix(filepath, ".pte")
        _check_packages()
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model, traced as it is converted to ONNX."""
        return self._plain.source(model, input_signature, calibration_data)

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Has the child process export the model, and runs what it wrote there."""
        content = self._plain.content(source)
        reply = _lowered(content, stage, source.model)
        inputs, outputs = _described(content)
        counts = Counter(
            [f"xnnpack.{name}" for name in reply["taken"]] + list(reply["left"])
        )
        about = {
            "inputs": [asdict(info) for info in inputs],
            "outputs": [asdict(info) for info in outputs],
            "operators": sorted(counts.items()),
        }
        with stage.open("ab") as file:
            text = json.dumps(about).encode()
            file.write(text + len(text).to_bytes(8, "little") + _MARK)
        written = self.inspect(stage)
        return written, _compared(source, written)

    def matches(self, filepath: Path) -> bool:
        """Returns whether the file is called .pte."""
        return filepath.is_file() and filepath.suffix.lower() == ".pte"

    def inspect(self, filepath: Path) -> Artifact:
        """Returns what an export has written behind the program."""
        try:
            about = _about(filepath.read_bytes())
            inputs, outputs = (
                tuple(
                    TensorInfo(**{**info, "shape": tuple(info["shape"])})
                    for info in about[name]
                )
                for name in ("inputs", "outputs")
            )
            operators = tuple(
                OperatorCount(str(name), (), (), int(count))
                for name, count in about["operators"]
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                "The .pte file is damaged, or not one of `tfcompress.export`.",
                received=f"{filepath} ({error})",
                expected="a whole file, which ends in the names of its tensors",
                fix="export the model again, or copy the file again",
            ) from error
        return Artifact(
            path=filepath,
            format="executorch",
            inputs=inputs,
            outputs=outputs,
            files=(filepath,),
            operators=operators,
        )

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a runner of ExecuTorch, in the jailed child process."""
        _check_packages()
        artifact = self.inspect(filepath)
        names = [info.name for info in artifact.inputs]
        return ExecuTorchRunner(
            artifact, filepath, _RUNTIME, _SCRIPT, threads, inputs=names
        )

    @property
    def _plain(self) -> ONNXExporter:
        # PyTorch has no integers without a sign, and XNNPACK adds in integers itself.
        return ONNXExporter(self.batch_size, exact_sums=False, kernels="int8")


class ExecuTorchRunner(JailedRunner):
    """Runs a .pte file in ExecuTorch, on the CPU, in a process that has PyTorch."""

    process = TORCH_JAIL


def _check_packages() -> None:
    """Raises `ExportError` unless there is a Python with PyTorch and ExecuTorch."""
    another = os.environ.get(PYTHON)
    if another and not os.access(another, os.X_OK):
        raise _missing(f"{PYTHON} names no Python.", another)
    packages = () if another else ("torch", "executorch")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        problem = f"The packages {' and '.join(missing)} are needed for this."
        raise _missing(problem, "an environment without them")


def _missing(problem: str, received: str) -> ExportError:
    return ExportError(
        problem,
        received=received,
        expected="PyTorch and ExecuTorch, which come with the extra 'executorch'",
        fix="pip install 'tfcompress[executorch]'; on Linux install PyTorch for the "
        "CPU before, from PyTorch's own index (its page says how), since the usual "
        "package brings gigabytes of CUDA. Or have both in another environment, and "
        f"set {PYTHON} to its Python",
    )


def _lowered(content: bytes, stage: Path, model: Any) -> dict[str, Any]:
    """Returns what the child process says of the file that it has written."""
    graph = Operators.read(content)
    inputs, _ = _described(content)
    samples = [(list(info.shape), info.dtype) for info in inputs]
    job = {
        **graph.as_job(),
        "job": "lower",
        "script": _SCRIPT,
        "samples": samples,
        "output": str(stage.absolute()),
        "cpu_seconds": _SECONDS,
        "wall_seconds": _SECONDS,
        "memory": _MEMORY,
    }
    try:
        reply = TORCH.run(job, graph.constants)
    except ConverterFailure as failure:
        if "No module named" in failure.message:
            problem = f"The Python that {PYTHON} names lacks a package."
            raise _missing(problem, failure.reason) from None
        raise failure.as_error(
            "ExecuTorch could not export the model; nothing was written.",
            'replace the layer that it names, or use format="tflite"',
        ) from None
    if unknown := reply.get("unknown"):
        names = set(named_paths(model))
        nodes = [node for node in graph.nodes if node.type in unknown]
        places = (f"{n.type} of {layer_of(n.name, names) or n.name}" for n in nodes)
        raise ExportError(
            "The model has operators that are not written for ExecuTorch.",
            received="; ".join(dict.fromkeys(places)),
            expected="those of convolutional, dense and attention networks",
            fix='replace the layer, or use format="tflite" or "onnx"',
        )
    return reply


def _compared(source: Source, written: Artifact) -> dict[str, Any]:
    """Runs the staged file and compares it; returns what the manifest says of it."""
    tried = source.tried
    if tried.inputs is None:
        return {"samples": 0, "bound": None}
    job = {
        "job": "call",
        "script": _SCRIPT,
        "path": str(written.path.absolute()),
        "inputs": [info.name for info in written.inputs],
        "outputs": [info.name for info in written.outputs],
        "cpu_seconds": _CALL_SECONDS,
        "wall_seconds": _CALL_SECONDS,
    }
    rows, parts = int(source.batch_size or 1), []
    try:
        for start in range(0, len(next(iter(tried.inputs.values()))), rows):
            batch = {n: a[start : start + rows] for n, a in tried.inputs.items()}
            parts.append(TORCH.run(job, batch)["arrays"])
    except ConverterFailure as failure:
        raise failure.as_error(
            f"The converter's file does not run in {_RUNTIME}.",
            "replace the layer that it names, or use another format",
        ) from None
    actual = {n: np.concatenate([part[n] for part in parts]) for n in tried.expected}
    bound = Bound(0.05) if source.traced.fake_quantized else Bound()
    return judged(tried, written, _RUNTIME, actual, bound, rows=rows)


def _described(content: bytes) -> tuple[tuple[TensorInfo, ...], ...]:
    import onnx

    return describe(onnx.load_from_string(content))


def _about(content: bytes) -> dict[str, Any]:
    if not content.endswith(_MARK):
        raise ValueError("its end is missing")
    end = len(content) - len(_MARK) - 8
    size = int.from_bytes(content[end : end + 8], "little")
    if size > end:
        raise ValueError("its end is damaged")
    return json.loads(content[end - size : end])
