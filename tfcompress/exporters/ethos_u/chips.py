"""The NPUs that Vela compiles for, and the memories around them."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcompress.child.probing import require
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.ethos_u.board import (
    MODE,
    SYSTEM,
    check_board,
    nearest,
    read_board,
)

#: Vela 5.2's accelerator configurations: a family, and multiply-accumulates a cycle.
NPUS = (
    *("u55-32", "u55-64", "u55-128", "u55-256", "u65-256", "u65-512"),
    *("u85-128", "u85-256", "u85-512", "u85-1024", "u85-2048"),
)
#: What Vela itself assumes where it is told nothing.
_DEFAULTS = {
    "u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "u65": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}


def npu_named(name: Any) -> str:
    """Returns the short name of an NPU, "u55-128" for "Ethos-U55-128".

    Raises:
        InvalidArgumentError: if there is no such NPU, with the names that are nearest.

    Example:

    >>> npu_named("ethos-u65-256")
    'u65-256'
    """
    short = name.lower().replace("_", "-") if isinstance(name, str) else ""
    short = short.removeprefix("arm-").removeprefix("ethos-")
    if short in NPUS:
        return short
    family = [known for known in NPUS if known.split("-")[0] == short.split("-")[0]]
    raise InvalidArgumentError(
        "There is no such Ethos-U.",
        received=f"npu={name!r}",
        expected=nearest(short, family or NPUS),
        fix="the number after the family is its multiply-accumulates a cycle, which "
        "the chip's data sheet names",
    )


@dataclass(frozen=True)
class Chip:
    """An NPU with its memories, as Vela is told of them.

    Attributes:
        npu: short name, one of `NPUS`.
        system_config: name of a section of `config`.
        memory_mode: name of a section of `config`.
        config: the file with both.
    """

    npu: str
    system_config: str
    memory_mode: str
    config: Path

    @property
    def arguments(self) -> list[str]:
        """What Vela is called with."""
        return [
            *("--accelerator-config", f"ethos-{self.npu}"),
            *("--system-config", self.system_config),
            *("--memory-mode", self.memory_mode),
            *("--config", str(self.config)),
        ]

    @property
    def constraints(self) -> str:
        """What Vela calls the family whose rules hold."""
        return "EthosU85" if self.npu.startswith("u85") else "EthosU55"


def chip(
    npu: Any,
    system_config: str | None = None,
    memory_mode: str | None = None,
    config: str | os.PathLike | None = None,
) -> Chip:
    """Returns a chip whose parts are known and fit together.

    Raises:
        InvalidArgumentError: if one is not known, or the memory mode needs a memory
            that the system does not have.
        ExportError: if Vela is not installed.
    """
    name = npu_named(npu)
    require("ethosu", "ethosu")
    family = name.split("-")[0]
    path = _ini() if config is None else Path(config).absolute()
    found = read_board(path)
    system, mode = _DEFAULTS[family]
    systems = [s.removeprefix(SYSTEM) for s in found if s.startswith(SYSTEM)]
    if config is None:
        systems = [one for one in systems if one.startswith(f"Ethos_{family.upper()}_")]
    modes = [s.removeprefix(MODE) for s in found if s.startswith(MODE)]
    system = _section("system_config", system_config or system, systems, path)
    mode = _section("memory_mode", memory_mode or mode, modes, path)
    check_board(found, system, mode, path)
    return Chip(name, system, mode, path)


def _ini() -> Path:
    found = importlib.util.find_spec("ethosu")
    assert found is not None
    folders = list(found.submodule_search_locations or ())
    return Path(folders[0], "config_files", "Arm", "vela.ini")


def _section(option: str, given: Any, names: list[str], path: Path) -> str:
    known = {name.lower(): name for name in names}
    if isinstance(given, str) and given.lower() in known:
        return known[given.lower()]
    raise InvalidArgumentError(
        f"Unknown `{option}`.",
        received=f"{option}={given!r}",
        expected=nearest(str(given), names) if names else f"a section in {path}",
        fix=f"the names are those of {path}; `config` takes the file of a board",
    )
