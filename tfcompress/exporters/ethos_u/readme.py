"""The README in the folder of an "ethos_u" artifact."""

from __future__ import annotations

from pathlib import Path

from tfcompress.core.tables import table
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.ethos_u.compiling import NPU_OPERATOR
from tfcompress.exporters.npu import NPUFigures
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile


def readme(phone: Artifact, figures: NPUFigures, compiled: Path) -> str:
    """Returns what is in the folder, and how the firmware uses it.

    Args:
        phone: the integer file.
        figures: what Vela said.
        compiled: the compiled file.
    """
    operators = sorted({op.name for op in TFLiteFile.open(compiled).operators})
    others = [name for name in operators if name != NPU_OPERATOR]
    also = f", and for the CPU {', '.join(others)}" if others else ""
    layers = [
        (one.name or "(other)", f"{one.cycles:,}", f"{one.sram:,}", f"{one.macs:,}")
        for one in figures.layers
    ]
    borders = [
        (kind, *_described(info))
        for kind, infos in (("input", phone.inputs), ("output", phone.outputs))
        for info in infos
    ]
    size = compiled.stat().st_size
    files = [
        (compiled.name, f"the firmware, {size:,} bytes; runs on this NPU only"),
        (phone.path.name, "anywhere else; the integers that Vela has compiled"),
    ]
    return f"""# For an Ethos-{figures.npu.upper()}

{figures}

{table(("file", "what it is for"), files, names=2)}

Vela was told `{figures.system_config}` and `{figures.memory_mode}`. Cycles and
memory are its estimates, without the work of the CPU; nothing was measured on a board.

tflite-micro, built for Ethos-U, runs {compiled.name}: its resolver needs
`AddEthosU()`{also}.

{table(("", "name", "shape", "dtype", "scale", "zero point"), borders, names=4)}

{table(("layer", "cycles", "SRAM", "MACs"), layers, names=1)}
"""


def _described(info: TensorInfo) -> tuple[str, ...]:
    shape = " x ".join(map(str, info.shape))
    scale = "" if info.scale is None else f"{info.scale:.9g}"
    return info.name, shape, info.dtype, scale, str(info.zero_point)
