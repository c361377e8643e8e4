"""One .tflite file through Vela, and what Vela made of it in the user's words."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import keras

from tfcompress.child.probing import reading
from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.errors import ExportError
from tfcompress.core.ownership import scratch
from tfcompress.exporters.ethos_u.board import MODE, SYSTEM
from tfcompress.exporters.ethos_u.chips import Chip
from tfcompress.exporters.npu import LeftToCPU, NPUFigures, NPULayer
from tfcompress.exporters.operations import named_paths
from tfcompress.exporters.publishing import disk_error
from tfcompress.exporters.tflite.compiled_operators import (
    check_borders,
    layer_of_operator,
    layers_in,
    left_in,
)
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

_SCRIPT = str(Path(__file__).with_name("_worker.py"))
#: What the compiler may take: seconds of the clock and of the processor.
SECONDS = 600
#: The operator that all of the NPU's work has become.
NPU_OPERATOR = "ethos-u"
# What Vela asks of files that converters write in any case.
_ALWAYS_MET = re.compile(
    "Bias |Int64 bias|Weight tensors|Weigth|Param|32-bit|64-bit|Zero-points"
)


def compile_for(
    chip: Chip, source: Path, target: Path, model: keras.Model, optimise: str
) -> NPUFigures:
    """Compiles an integer .tflite file for an NPU, in the child process.

    Args:
        chip: the NPU and its memories.
        source: the file.
        target: where the compiled file is to be.
        model: the model that the file was made from, whose layers are named.
        optimise: "performance" or "size".

    Returns:
        What the NPU takes of it, in how many cycles and how much SRAM.

    Raises:
        ExportError: if Vela fails, dies, takes too long, or leaves all to the CPU.
    """
    with scratch() as folder:
        reply = _reply(chip, source, folder, optimise)
        try:
            shutil.copyfile(reply["compiled"], target)
        except OSError as error:
            raise disk_error(target, error) from error
    before, after = TFLiteFile.open(source), TFLiteFile.open(target)
    names = named_paths(model)
    left = _left(before, after, names, reply["conditions"])
    if not any(op.name == NPU_OPERATOR for op in after.operators):
        raise ExportError(
            f"The Ethos-{chip.npu.upper()} takes nothing of the model.",
            received=", ".join(map(str, left)) or "a model without operators",
            expected="layers with integer kernels, such as Dense and Conv2D",
            fix="; ".join(dict.fromkeys(one.reason for one in left)) or None,
        )
    check_borders(after, before, "Vela", "ethos-u-vela")
    memories = reply["memories"]
    return NPUFigures(
        npu=chip.npu,
        system_config=chip.system_config,
        memory_mode=chip.memory_mode,
        operators=len(before.operators),
        left=left,
        cycles=reply["cycles"],
        clock=reply["clock"],
        sram=memories["sram"],
        dram=memories["dram"],
        flash=memories["on_chip_flash"] + memories["off_chip_flash"],
        layers=_layers(reply["operations"], names),
    )


def _reply(chip: Chip, source: Path, folder: str, optimise: str) -> dict[str, Any]:
    limits = {**reading(source), "cpu_seconds": SECONDS, "wall_seconds": SECONDS}
    arguments = [*chip.arguments, "--optimise", optimise.capitalize()]
    try:
        return WORKER.run(
            {
                **limits,
                "job": "compile",
                "script": _SCRIPT,
                "folder": folder,
                "arguments": [*arguments, "--verbose-performance"],
                "constraints": chip.constraints,
            }
        )
    except ConverterFailure as failure:
        if "ConfigOptionError" in failure.reason:
            raise failure.as_error(
                "Vela cannot use the memories of the chip; nothing was written.",
                f"mend [{MODE}{chip.memory_mode}] or [{SYSTEM}{chip.system_config}] "
                f"of {chip.config}, or name other sections of it",
            ) from None
        died = "died or took too long" if failure.died else "refused the model"
        raise failure.as_error(
            f"The compiler for Ethos-U, Vela, {died}; nothing was written.",
            "export parts of the model alone to find the layer, or try another "
            "`memory_mode`, `system_config` or version of ethos-u-vela",
        ) from None


def _left(
    before: TFLiteFile,
    after: TFLiteFile,
    names: dict[str, str],
    conditions: dict[str, list[str]],
) -> tuple[LeftToCPU, ...]:
    """Returns the operators of a file that the compiled one still has."""
    common = _in_most(conditions)
    return tuple(
        LeftToCPU(
            op.name,
            layer_of_operator(op, names),
            _reason(op.name, conditions, common),
        )
        for op in left_in(after, before, NPU_OPERATOR)
    )


def _reason(operator: str, conditions: dict[str, list[str]], common: set[str]) -> str:
    # Vela has another name for one of them.
    key = {"ARG_MAX": "ARGMAX"}.get(operator, operator)
    if key not in conditions:
        return f"the NPU has no {operator}: replace the layer, or leave it to the CPU"
    own = [
        " ".join(one.split()).rstrip(".")
        for one in conditions[key]
        if one not in common and not _ALWAYS_MET.match(one)
    ]
    text = "; ".join(own) or "integer tensors of 8 or 16 bits, each with one scale"
    return f"the NPU takes {operator} on conditions: {text}"


def _in_most(conditions: dict[str, list[str]]) -> set[str]:
    """Returns the conditions that hold for four of five operators, as Vela's report."""
    every = [one for found in conditions.values() for one in set(found)]
    return {one for one in set(every) if every.count(one) > 0.8 * len(conditions)}


def _layers(
    operations: list[dict[str, Any]], names: dict[str, str]
) -> tuple[NPULayer, ...]:
    """Returns the costs of each layer; Vela makes several operations of some."""
    found: dict[str, NPULayer] = {}
    for one in operations:
        if one["target"] != "NPU":
            continue
        name = " + ".join(layers_in(one["tensor"], names))
        known = found.get(name, NPULayer(name, 0, 0, 0))
        found[name] = NPULayer(
            name,
            known.cycles + one["cycles"],
            max(known.sram, one["sram"]),
            known.macs + one["macs"],
        )
    return tuple(found.values())
