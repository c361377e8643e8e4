"""What an NPU's compiler says of a model: how much it takes, in how many cycles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcompress.core.errors import ArtifactError
from tfcompress.exporters.publishing import is_inside


@dataclass(frozen=True)
class NPULayer:
    """What one layer costs on the NPU.

    Attributes:
        name: the layer, or the layers that are computed as one; "" for what cannot be
            told apart.
        cycles: of the NPU.
        sram: bytes of SRAM that are in use while it runs, at most.
        macs: multiply-accumulates.
    """

    name: str
    cycles: int
    sram: int
    macs: int


@dataclass(frozen=True)
class LeftToCPU:
    """One operator that the NPU does not take.

    Attributes:
        operator: the runtime's name for it.
        layer: the layer that it is a part of; "" where none is known.
        reason: why the NPU does not take it, in words.
    """

    operator: str
    layer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} in '{self.layer}'" if self.layer else self.operator


@dataclass(frozen=True)
class CompiledFile:
    """A file that `compile_for` had compiled for the NPU of one chip.

    `Artifact.compiled` holds them. It runs on this chip only, and has not been run.

    Attributes:
        chip: the chip, such as "qualcomm:SM8750".
        path: the file.
        operators: operators of the model.
        dispatches: parts that the NPU computes, each from its first operator to its
            last without the CPU.
        left: the operators that the CPU has to compute.

    Example:

    >>> from pathlib import Path
    >>> left = (LeftToCPU("CUMSUM", "sums", "it was not taken"),)
    >>> print(CompiledFile("qualcomm:SM8750", Path("m.tflite"), 8, 2, left))
    qualcomm:SM8750: 7 of 8 operators in 2 dispatches; on the CPU: CUMSUM in 'sums'
    """

    chip: str
    path: Path
    operators: int
    dispatches: int
    left: tuple[LeftToCPU, ...] = ()

    @property
    def share(self) -> float:
        """Share of the operators that the NPU computes, from 0 to 1."""
        return 1 - len(self.left) / self.operators if self.operators else 0.0

    @classmethod
    def from_dict(cls, content: dict[str, Any], folder: Path) -> CompiledFile:
        """Returns what a manifest in `folder` says of one.

        Raises:
            ArtifactError: if it says something else.
        """
        try:
            left = tuple(LeftToCPU(**one) for one in content["left"])
            found = cls(
                content["chip"],
                Path(content["path"]),
                content["operators"],
                content["dispatches"],
                left,
            )
            for part in (found, *left):
                _check_types(part)
            if not is_inside(content["path"]):
                raise ValueError(f"it names the path {content['path']!r}")
        except (TypeError, KeyError, ValueError) as error:
            raise _unreadable(error) from error
        return dataclasses.replace(found, path=folder / found.path)

    def __str__(self) -> str:
        plural = "" if self.dispatches == 1 else "es"
        text = (
            f"{self.chip}: {self.operators - len(self.left)} of {self.operators} "
            f"operators in {self.dispatches} dispatch{plural}"
        )
        named = ", ".join(dict.fromkeys(map(str, self.left)))
        return f"{text}; on the CPU: {named}" if named else text


@dataclass(frozen=True)
class NPUFigures:
    """What the NPU's compiler estimated when it compiled an artifact.

    `Artifact.npu` holds it. The figures are those of the compiler's own model of the
    chip and its memories; nothing was measured on a board.

    Attributes:
        npu: the chip, such as "u55-128".
        system_config: the memories' speeds that were assumed, by their name.
        memory_mode: which memory holds what, by its name.
        operators: operators of the model.
        left: those of them that the CPU has to compute.
        cycles: cycles of the NPU for one call; without those of the CPU.
        clock: the NPU's clock in Hz that `system_config` has.
        sram: bytes of SRAM.
        dram: bytes of DRAM.
        flash: bytes of flash, on the chip and beside it.
        layers: cycles and SRAM of each layer, in the order of execution.

    Example:

    >>> found = NPUFigures("u55-128", "Fast", "Shared_Sram", 4, (), 2000, 5e8, 64, 0, 9)
    >>> print(found)
    u55-128: 100% of 4 operators on the NPU, 2,000 cycles (0.004 ms), 64 bytes of SRAM
    """

    npu: str
    system_config: str
    memory_mode: str
    operators: int
    left: tuple[LeftToCPU, ...]
    cycles: int
    clock: float
    sram: int
    dram: int
    flash: int
    layers: tuple[NPULayer, ...] = ()

    @property
    def share(self) -> float:
        """Share of the operators that the NPU computes, from 0 to 1."""
        return 1 - len(self.left) / self.operators if self.operators else 0.0

    @property
    def milliseconds(self) -> float:
        """Time of the NPU for one call, as its compiler estimates it."""
        return 1000 * self.cycles / self.clock

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> NPUFigures:
        """Returns what `dataclasses.asdict` and JSON have made of one.

        Raises:
            ArtifactError: if it is something else.
        """
        try:
            left = tuple(LeftToCPU(**one) for one in content["left"])
            layers = tuple(NPULayer(**one) for one in content["layers"])
            found = cls(**{**content, "left": left, "layers": layers})
            for part in (found, *left, *layers):
                _check_types(part)
        except (TypeError, KeyError, ValueError) as error:
            raise _unreadable(error) from error
        return found

    def __str__(self) -> str:
        text = (
            f"{self.npu}: {self.share:.0%} of {self.operators} operators on the NPU, "
            f"{self.cycles:,} cycles ({self.milliseconds:.3g} ms), {self.sram:,} bytes "
            "of SRAM"
        )
        named = ", ".join(dict.fromkeys(map(str, self.left)))
        return f"{text}; on the CPU: {named}" if named else text


def _unreadable(error: Exception) -> ArtifactError:
    return ArtifactError(
        "What the manifest says of the NPU cannot be read.",
        received=str(error),
        expected="what an export wrote there",
        fix="export the model again",
    )


def _check_types(part: Any) -> None:
    """Raises `TypeError` unless words are words, and numbers above zero."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.type == "str":
            right = isinstance(value, str)
        elif field.type in ("int", "float"):
            right = isinstance(value, int | float) and 0 <= value < 2**63
        else:
            right = isinstance(value, tuple | Path)
        if not right or (field.name == "clock" and not value):
            raise TypeError(f"{field.name} is {value!r}")
