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
from tfcompress.exporters.ethos_u.chips import Chip
from tfcompress.exporters.npu import LeftToCPU, NPUFigures, NPULayer
from tfcompress.exporters.operations import layer_of, named_paths
from tfcompress.exporters.publishing import disk_error
from tfcompress.exporters.tflite.flatbuffer import Operator, TFLiteFile

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
    _check_borders(before, after)
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
        died = "died or took too long" if failure.died else "refused the model"
        raise failure.as_error(
            f"The compiler for Ethos-U, Vela, {died}; nothing was written.",
            "export parts of the model alone to find the layer, or try another "
            "`memory_mode`, `system_config` or version of ethos-u-vela",
        ) from None


def _check_borders(before: TFLiteFile, after: TFLiteFile) -> None:
    """Raises unless the compiled file takes and gives what the file did."""
    wanted, got = (
        [_border(tensor.info) for tensor in (*file.inputs, *file.outputs)]
        for file in (before, after)
    )
    if wanted != got:
        raise ExportError(
            "Vela has changed what the model takes or gives.",
            received=str(got),
            expected=str(wanted),
            fix="try another version of ethos-u-vela, or tell us of it",
        )


def _border(info: Any) -> tuple[Any, ...]:
    return tuple(info.shape), info.dtype, info.scale, info.zero_point


def _left(
    before: TFLiteFile,
    after: TFLiteFile,
    names: dict[str, str],
    conditions: dict[str, list[str]],
) -> tuple[LeftToCPU, ...]:
    """Returns the operators of a file that the compiled one still has."""
    common = _in_most(conditions)
    remaining = {
        (op.name, tensor.info.name)
        for op in after.operators
        if op.name != NPU_OPERATOR
        for tensor in op.outputs
    }
    return tuple(
        LeftToCPU(op.name, _layer(op, names), _reason(op.name, conditions, common))
        for op in before.operators
        if any((op.name, tensor.info.name) in remaining for tensor in op.outputs)
    )


def _layer(operator: Operator, names: dict[str, str]) -> str:
    for tensor in (*operator.outputs, *operator.inputs):
        if found := _layers_in(tensor.info.name, names):
            return found[0]
    return ""


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
        name = " + ".join(_layers_in(one["tensor"], names))
        known = found.get(name, NPULayer(name, 0, 0, 0))
        found[name] = NPULayer(
            name,
            known.cycles + one["cycles"],
            max(known.sram, one["sram"]),
            known.macs + one["macs"],
        )
    return tuple(found.values())


def _layers_in(tensor: str, names: dict[str, str]) -> list[str]:
    """Returns the layers that a tensor's name tells: "conv/Conv2D;relu/Relu".

    >>> _layers_in("relu/Relu;net/conv/Conv2D_softmax_3;#12", {"conv": "conv"})
    ['conv']
    """
    places = (layer_of(part, names) for part in re.split(";", tensor))
    return list(dict.fromkeys(place for place in places if place))
