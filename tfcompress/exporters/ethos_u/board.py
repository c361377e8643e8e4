"""What an .ini file for Vela says of a board: each value is read before Vela does."""

from __future__ import annotations

import configparser
import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfcompress.core.errors import InvalidArgumentError

#: How the sections with speeds of memories, and with their use, begin.
SYSTEM, MODE = "System_Config.", "Memory_Mode."
_MEMORIES = ("Sram", "Dram", "OnChipFlash", "OffChipFlash")
_PORTS = ("Axi0", "Axi1")


class _Number:
    """A number of a kind, not below 0."""

    def __init__(self, kind: Callable[[str], float], text: str):
        self.kind, self.text = kind, text

    def __contains__(self, said: str) -> bool:
        try:
            return 0 <= self.kind(said) < float("inf")
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.text


class _OneOf(tuple[str, ...]):
    """Names, of which Vela wants exactly one."""

    def __str__(self) -> str:
        return " or ".join(self)


_WHOLE = _Number(int, "a whole number, 0 or more")
_FACTOR = _Number(float, "a number, 0 or more")
_OF_A_MEMORY = {
    **dict.fromkeys(("burst_length", "read_latency", "write_latency"), _WHOLE),
    **dict.fromkeys(("max_reads", "max_writes", "ports_used"), _WHOLE),
    "clock_scale": _FACTOR,
}
# What Vela 5.2 reads in each kind of section, and Arm's own file has.
_KEYS: dict[str, dict[str, _Number | _OneOf]] = {
    SYSTEM: {
        "core_clock": _FACTOR,
        **dict.fromkeys(("axi0_port", "axi1_port"), _OneOf(_MEMORIES)),
        **{
            f"{memory}_{name}": values
            for memory in _MEMORIES
            for name, values in _OF_A_MEMORY.items()
        },
    },
    MODE: {
        **{f"{what}_mem_area": _OneOf(_PORTS) for what in ("const", "arena", "cache")},
        "arena_cache_size": _WHOLE,
    },
}


def read_board(path: Path) -> configparser.ConfigParser:
    """Returns the sections of a file.

    Raises:
        InvalidArgumentError: if it cannot be read.
    """
    found = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            found.read_file(file)
        if path.suffix != ".ini":
            raise ValueError("its name does not end in .ini")
    except (OSError, ValueError, configparser.Error) as error:
        raise InvalidArgumentError(
            "The file with the chip's memories cannot be read.",
            received=f"config={str(path)!r} ({error})",
            expected="an .ini file for Vela, as comes with it or with the board",
        ) from error
    return found


def check_board(
    found: configparser.ConfigParser, system_config: str, memory_mode: str, path: Path
) -> None:
    """Refuses what Vela would misread, pass over or die of.

    Raises:
        InvalidArgumentError: if a key or a value of the two sections is none of
            Vela's, or they do not fit together; with the file and the key.
    """
    _check_fit(found, system_config, memory_mode)
    _check_clock(found, system_config, path)
    for kind, name in ((SYSTEM, system_config), (MODE, memory_mode)):
        for section in _inherited(found, kind + name):
            _check_values(found, section, _KEYS[kind], path)


def _check_values(
    found: configparser.ConfigParser,
    section: str,
    keys: dict[str, _Number | _OneOf],
    path: Path,
) -> None:
    known = {key.lower(): key for key in keys}  # a parser has them in small letters
    for name, said in found.items(section):
        where = f"{known.get(name, name)}={said!r} in [{section}] of {path}"
        if name == "inherit":
            if not found.has_section(said):
                raise InvalidArgumentError(
                    "The file with the chip's memories has no section of that name.",
                    received=where,
                    expected=nearest(said, found.sections()),
                )
        elif name not in known:
            raise InvalidArgumentError(
                "The file with the chip's memories has a key that Vela does not know.",
                received=where,
                expected=nearest(name, list(keys)),
            )
        elif said not in keys[known[name]]:
            raise InvalidArgumentError(
                "The file with the chip's memories has a value that Vela cannot read.",
                received=where,
                expected=str(keys[known[name]]),
            )


def _check_fit(
    found: configparser.ConfigParser, system_config: str, memory_mode: str
) -> None:
    """Raises if values that change were to be kept in flash."""
    port = _value(found, MODE + memory_mode, "arena_mem_area")
    memory = _value(found, SYSTEM + system_config, f"{port.lower()}_port")
    if "Flash" in memory:
        raise InvalidArgumentError(
            "The memory mode does not fit the system's memories.",
            received=f"memory_mode={memory_mode!r} with {system_config!r}, which has "
            f"{memory} where the activations would be",
            expected="'Shared_Sram' or 'Sram_Only' for systems with flash",
            fix="or choose a `system_config` with DRAM",
        )


def _check_clock(
    found: configparser.ConfigParser, system_config: str, path: Path
) -> None:
    """Raises unless the clock, of which milliseconds are made, is a number above 0."""
    said = _value(found, SYSTEM + system_config, "core_clock")
    try:
        clock = float(said)
    except ValueError:
        clock = 0.0
    if not 0 < clock < float("inf"):
        raise InvalidArgumentError(
            "The file with the chip's memories has no clock of the NPU.",
            received=f"core_clock={said!r} of {system_config!r} in {path}",
            expected="core_clock=500e6 or another number above 0, in Hz",
        )


def _inherited(found: configparser.ConfigParser, section: str) -> Iterator[str]:
    """Yields a section and those that it inherits from."""
    seen: set[str] = set()
    while found.has_section(section) and section not in seen:
        seen.add(section)
        yield section
        section = found.get(section, "inherit", fallback="")


def _value(found: configparser.ConfigParser, section: str, name: str) -> str:
    """Returns a value of a section, or of the one that it inherits from."""
    for one in _inherited(found, section):
        if found.has_option(one, name):
            return found.get(one, name)
    return ""


def nearest(given: str, names: Sequence[str]) -> str:
    """Returns the names that are most like the given one, or all of them."""
    near = difflib.get_close_matches(given, names, n=4, cutoff=0.5) or list(names)
    return " or ".join(map(repr, near))
