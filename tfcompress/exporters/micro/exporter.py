"""The "micro" format: a folder of C++ for tflite-micro, on microcontrollers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfcompress.child.probing import probe, require
from tfcompress.core.arguments import integer
from tfcompress.core.errors import ExportError
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_folder
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.jail import JailedRunner, open_in_jail
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.micro import sources
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tflite.exporter import TFLiteExporter
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.exporters.tflite.fused import check_recurrent

_SCRIPT = str(Path(__file__).with_name("_worker.py"))
_MODEL = "model.tflite"
# Kernels of both are the same reference code; one value may be rounded otherwise.
_MOST_DIFFERENCE = 1


@EXPORTERS.register("micro")
@dataclass(frozen=True)
class MicroExporter(Exporter):
    """Writes a folder: model.tflite, the same as a C++ array, and code that runs it.

    Everything is in 8-bit integers, inputs and outputs too. The arena is the least with
    which the model ran in tflite-micro, and its outputs are compared with LiteRT's.

    Args:
        arena_margin: bytes to add to the arena that was measured.
        recurrent: "fused" for LSTMs as one operator, as in `TFLiteExporter`: a fraction
            of the flash and of the arena.
    """

    arena_margin: int = 0
    recurrent: str = "unrolled"

    runtime_module: ClassVar[str] = "tflite_micro.python.tflite_micro.runtime"
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "tflite-micro")
    limits: ClassVar[Limits] = Limits(
        "tflite-micro",
        activations=(8,),
        float_models=False,
        dynamic_batch=False,
        operators=sources.OPERATORS,
        missing=TFLiteExporter.limits.missing,
    )

    @property
    def _phone(self) -> TFLiteExporter:
        return TFLiteExporter(io_dtype="int8", recurrent=self.recurrent)

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        check_folder(filepath, "A micro artifact is a folder.", "student_micro")
        expected = "a number of bytes, 0 or more"
        integer(self.arena_margin, "Bad `arena_margin`.", low=0, expected=expected)
        check_recurrent(self.recurrent)
        require("tflite_micro", "micro")
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model as the .tflite file needs it."""
        return self._phone.source(model, input_signature, calibration_data)

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Converts the model, measures it in tflite-micro and writes the code."""
        stage.mkdir()
        phone, noted = self._phone.write(source, stage / _MODEL)
        _check_operators(phone)
        reply = probe(phone.path, "tflite-micro", ExportError, script=_SCRIPT)
        if reply["difference"] > _MOST_DIFFERENCE:
            raise ExportError(
                "tflite-micro computes other numbers than LiteRT.",
                received=f"outputs that differ by {reply['difference']} integers",
                expected=f"at most {_MOST_DIFFERENCE}",
                fix="find the layer: export parts of the model alone",
            )
        for name, text in self._texts(phone, reply["arena"]).items():
            (stage / name).write_text(text, encoding="utf-8")
        return self.inspect(stage), noted

    def matches(self, filepath: Path) -> bool:
        """Returns whether the folder holds the model and its array."""
        return (filepath / _MODEL).is_file() and (filepath / "model.cc").is_file()

    def inspect(self, filepath: Path) -> Artifact:
        """Returns the description of the folder's model."""
        artifact = TFLiteExporter().inspect(filepath / _MODEL)
        files = tuple(sorted(p for p in filepath.iterdir() if p.suffix != ".json"))
        return replace(artifact, path=filepath, format="micro", files=files)

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a tflite-micro runner, for strangers' files in the child process."""
        vouched = check_files(filepath)
        artifact, arena = self._measured(filepath)
        if vouched:
            return MicroRunner(artifact, arena)
        file = filepath / _MODEL
        inputs = [info.name for info in artifact.inputs]
        return JailedRunner(
            artifact, file, "tflite-micro", _SCRIPT, 1, arena=arena, inputs=inputs
        )

    def trusted_runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a tflite-micro runner here."""
        check_files(filepath)
        return MicroRunner(*self._measured(filepath))

    def _measured(self, filepath: Path) -> tuple[Artifact, int]:
        """Returns the description, and the arena that the child process measured."""
        require("tflite_micro", "micro")
        artifact, file = self.inspect(filepath), filepath / _MODEL
        found = open_in_jail(file, "tflite-micro", _SCRIPT, compare=False)
        return artifact, int(found["arena"])

    def _texts(self, phone: Artifact, arena: int) -> dict[str, str]:
        arena += self.arena_margin
        operators = sorted({op.name for op in phone.operators})
        return {
            "model.cc": sources.array_source(phone.path.read_bytes()),
            "model.h": sources.header_source(phone.inputs, phone.outputs, arena),
            "resolver.h": sources.resolver_source(operators),
            "inference.h": sources.INFERENCE_HEADER,
            "inference.cc": sources.INFERENCE,
            "README.md": sources.readme(phone.inputs, phone.outputs, phone.size, arena),
        }


def _check_operators(phone: Artifact) -> None:
    """Raises `ExportError` if tflite-micro cannot run the file, or not in integers."""
    file = TFLiteFile.open(phone.path)
    floats = sorted(
        {
            _named(op)
            for op in file.operators
            for t in op.outputs
            if t.info.dtype.startswith(("float", "bfloat"))
        }
    )
    if floats:
        raise ExportError(
            "Part of the model would be computed in float.",
            received=f"float operators {', '.join(floats)}",
            expected="a model whose every layer is quantized",
            fix="replace the layers after which they are called, or give float "
            "inputs; the warning of `quantize_aware` names those that stay float",
        )
    known = sources.OPERATORS
    missing = sorted({_named(op) for op in file.operators if op.name not in known})
    if missing:
        raise ExportError(
            "tflite-micro has no such operators.",
            received=", ".join(missing),
            expected="operators of tflite-micro",
            fix="replace the layers after which they are called",
        )


def _named(operator: Any) -> str:
    """Returns the name of an operator, and what converters call its output."""
    return f"{operator.name} ({operator.outputs[0].info.name.split(';')[0]})"


class MicroRunner(Runner):
    """Runs a model in tflite-micro, with the arena that was measured.

    Args:
        artifact: the folder's description.
        arena: bytes of memory for its tensors.
    """

    threads = 1

    def __init__(self, artifact: Artifact, arena: int):
        from tflite_micro.python.tflite_micro import runtime

        super().__init__(artifact.inputs, artifact.outputs)
        self.name, self.arena = artifact.name, arena
        self._interpreter = runtime.Interpreter.from_bytes(
            (artifact.path / _MODEL).read_bytes(), arena_size=arena
        )

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that sets inputs, invokes and reads outputs."""
        feeds = [batch[info.name] for info in self.inputs]

        def once() -> dict[str, np.ndarray]:
            for position, array in enumerate(feeds):
                self._interpreter.set_input(array, position)
            self._interpreter.invoke()
            return {
                info.name: np.array(self._interpreter.get_output(position))
                for position, info in enumerate(self.outputs)
            }

        return once
