"""The "ethos_u" format: a .tflite file compiled for Arm's Ethos-U NPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tfcompress.core.arguments import one_of
from tfcompress.core.errors import ExportError, InvalidArgumentError, warn
from tfcompress.core.select import walk
from tfcompress.exporters.artifact import EXPORTERS, Artifact
from tfcompress.exporters.checks import check_folder
from tfcompress.exporters.ethos_u.chips import Chip, chip
from tfcompress.exporters.ethos_u.compiling import compile_for
from tfcompress.exporters.ethos_u.readme import readme
from tfcompress.exporters.exporter import Exporter, Source
from tfcompress.exporters.limits import Limits
from tfcompress.exporters.manifest import check_files
from tfcompress.exporters.manifest_file import read_manifest
from tfcompress.exporters.npu import NPUFigures
from tfcompress.exporters.runner import Runner
from tfcompress.exporters.tflite.exporter import TFLiteExporter
from tfcompress.layers import refuse
from tfcompress.quantization.fake_quantize import FakeQuantize

#: The file that Vela has read, and the one that it has written.
MODEL, COMPILED = "model.tflite", "model_vela.tflite"


@EXPORTERS.register("ethos_u")
@dataclass(frozen=True)
class EthosUExporter(Exporter):
    """Writes a folder: model_vela.tflite for an Ethos-U, and what it was made of.

    Everything is in integers, inputs and outputs too. `Artifact.npu` holds the share of
    the operators that the NPU takes, cycles, and the memory that Vela estimates.

    `load` and `verify` run model.tflite, the integer file that Vela has compiled, in
    LiteRT: the NPU's commands run on an Ethos-U alone.

    Args:
        npu: the chip: a family and its multiply-accumulates a cycle, such as "u55-128",
            "u65-256" or "u85-512".
        memory_mode: which memory holds what, one of Vela's: "Sram_Only",
            "Shared_Sram", "Dedicated_Sram", "Dedicated_Sram_384KB" ...; None takes
            Vela's default for the chip.
        system_config: the speeds of the memories, one of Vela's, such as
            "Ethos_U55_Deep_Embedded"; None takes Vela's default for the chip.
        config: an .ini file with the memories of a board, in which the two names above
            are then looked up; None takes Arm's.
        optimise: "performance" for the fewest cycles, "size" for the least SRAM.
        whole: whether a model is refused of which the NPU does not take every operator;
            otherwise what stays on the CPU is told.
    """

    npu: str = "u55-128"
    memory_mode: str | None = None
    system_config: str | None = None
    config: str | os.PathLike | None = None
    optimise: str = "performance"
    whole: bool = False

    runtime_module: ClassVar[str] = "ai_edge_litert.interpreter"
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "ethos-u-vela")
    limits: ClassVar[Limits] = Limits(
        "Ethos-U",
        activations=(8, 16),
        float_models=False,
        dynamic_batch=False,
        missing=TFLiteExporter.limits.missing,
        # From Vela's own report of operators, `vela --supported-ops-report`; of the
        # layers that have integer forms, these are all that leave some to the CPU.
        layers=refuse(
            {
                "CategoryEncoding": "stays on the CPU: no Ethos-U has ONE_HOT",
                "Embedding": "stays on the CPU of U55 and U65, which have no GATHER; "
                "U85 takes it",
                "Resizing": "stays on the CPU where it does not enlarge both sides by "
                "2 (bilinear), or 2, 4 or 8 (nearest)",
            },
            "ethos_u",
        ),
    )

    @cached_property
    def _chip(self) -> Chip:
        return chip(self.npu, self.system_config, self.memory_mode, self.config)

    def check(self, filepath: Path, calibration_data: Any) -> Path:
        """Returns `filepath`, if it and the options are as they must be."""
        check_folder(filepath, "An ethos_u artifact is a folder.", "student_u55")
        one_of(self.optimise, "Unknown `optimise`.", ("performance", "size"))
        _ = self._chip
        return filepath

    def source(self, model: Any, input_signature: Any, calibration_data: Any) -> Source:
        """Returns the model as the .tflite file needs it."""
        source = TFLiteExporter().source(model, input_signature, calibration_data)
        if not source.traced.fake_quantized and source.samples is None:
            raise InvalidArgumentError(
                "An Ethos-U computes in integers only.",
                received="a float model, and no `calibration_data`",
                expected="a model made by `quantize_aware` or `calibrate`",
                fix="tfcompress.finalize(tfcompress.calibrate(model, data))",
            )
        _check_sizes(source)
        return source

    def write(self, source: Source, stage: Path) -> tuple[Artifact, dict[str, Any]]:
        """Converts the model, compares it in LiteRT, and compiles it with Vela."""
        stage.mkdir()
        phone, noted = _phone(source.model).write(source, stage / MODEL)
        figures = compile_for(
            self._chip, phone.path, stage / COMPILED, source.model, self.optimise
        )
        self._tell(figures)
        text = readme(phone, figures, stage / COMPILED)
        (stage / "README.md").write_text(text, encoding="utf-8")
        return replace(self.inspect(stage), npu=figures), noted

    def _tell(self, figures: NPUFigures) -> None:
        """Says what stays on the CPU, or refuses it."""
        if not figures.left:
            return
        named = ", ".join(dict.fromkeys(map(str, figures.left)))
        reasons = "; ".join(dict.fromkeys(one.reason for one in figures.left))
        problem = f"The Ethos-{figures.npu.upper()} does not take the whole model."
        if self.whole:
            raise ExportError(
                problem,
                received=f"for the CPU: {named}",
                expected="a model whose every operator the NPU takes (`whole=True`)",
                fix=reasons,
            )
        warn(f"{problem} On the CPU stays: {named} ({reasons}).")

    def matches(self, filepath: Path) -> bool:
        """Returns whether the folder holds the model and the compiled one."""
        return (filepath / MODEL).is_file() and (filepath / COMPILED).is_file()

    def inspect(self, filepath: Path) -> Artifact:
        """Returns the description of the folder: that of the model, and the NPU's."""
        artifact = TFLiteExporter().inspect(filepath / MODEL)
        files = tuple(sorted(p for p in filepath.iterdir() if p.suffix != ".json"))
        manifest = read_manifest(filepath)
        known = (manifest or {}).get("npu")
        return replace(
            artifact,
            path=filepath,
            format="ethos_u",
            files=files,
            npu=NPUFigures.from_dict(known) if known else None,
        )

    def runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns a LiteRT runner of the integer file that Vela has compiled."""
        check_files(filepath)
        return TFLiteExporter().runner(filepath / MODEL, threads)

    def trusted_runner(self, filepath: Path, threads: int | None) -> Runner:
        """Returns the same runner at once."""
        check_files(filepath)
        return TFLiteExporter().trusted_runner(filepath / MODEL, threads)


def _phone(model: Any) -> TFLiteExporter:
    """Returns the exporter whose file Vela reads: integers from end to end."""
    bits = {
        layer.num_bits for _, layer in walk(model) if isinstance(layer, FakeQuantize)
    }
    # Four bits would be unpacked again: the NPU has a packing of its own.
    return TFLiteExporter(io_dtype="int16" if bits == {16} else "int8", int4="none")


def _check_sizes(source: Source) -> None:
    free = [i for i in source.traced.inputs if None in i.shape]
    if free:
        raise ExportError(
            "An Ethos-U needs the size of every tensor.",
            received=", ".join(f"input '{i.name}' of shape {i.shape}" for i in free),
            expected="inputs of fixed sizes",
            fix="give `keras.Input` whole shapes, or pass `input_signature` with them",
        )
