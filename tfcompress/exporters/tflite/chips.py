"""Chips that LiteRT compiles for ahead of time, and what each vendor's compiler needs.

The chips are those of LiteRT's own tables, which come with its package.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tfcompress.core.errors import ExportError, InvalidArgumentError

_MODULES = "ai_edge_litert.aot.vendors"
_COMPILER = "ai_edge_litert.aot.aot_compile"
_ANY = "ALL"


@dataclass(frozen=True)
class Vendor:
    """A vendor of NPUs.

    Attributes:
        name: as it is written before a chip, "qualcomm:SM8750".
        backend: LiteRT's name of its folder and of what is in it.
        package: the package of its libraries, which LiteRT's compiler loads.
        says: what else is to know of the package.
        variable: an environment variable that may name the libraries instead.
    """

    name: str
    backend: str
    package: str
    says: str = ""
    variable: str = ""

    @property
    def module(self) -> str:
        """The module of the package."""
        return self.package.removesuffix("-nightly").replace("-", "_")

    @property
    def is_installed(self) -> bool:
        """Whether its libraries are there."""
        named = bool(self.variable) and self.variable in os.environ
        return named or importlib.util.find_spec(self.module) is not None

    @property
    def chips(self) -> tuple[str, ...]:
        """The names of its chips."""
        found = import_module(f"{_MODULES}.{self.backend}.target").SocModel
        return tuple(chip.value for chip in found if chip.value != _ANY)


VENDORS = {
    vendor.name: vendor
    for vendor in (
        Vendor("qualcomm", "qualcomm", "ai-edge-litert-sdk-qualcomm"),
        Vendor("mediatek", "mediatek", "ai-edge-litert-sdk-mediatek"),
        Vendor(
            "google",
            "google_tensor",
            "ai-edge-litert-sdk-google-tensor",
            variable="GOOGLE_TENSOR_COMPILER_LIB",
        ),
        Vendor(
            "intel",
            "intel_openvino",
            "ai-edge-litert-sdk-intel",
            "it wants an OpenVINO of its own, so give it an environment of its own",
        ),
        Vendor(
            "samsung",
            "samsung",
            "ai-edge-litert-sdk-samsung-nightly",
            "there is no other release than the nightly one",
        ),
    )
}


@dataclass(frozen=True)
class Target:
    """A chip to compile for.

    Attributes:
        vendor: who makes it.
        chip: its name, as LiteRT's tables have it.
    """

    vendor: Vendor
    chip: str

    def __str__(self) -> str:
        return f"{self.vendor.name}:{self.chip}"


def targets_of(names: Any) -> tuple[Target, ...]:
    """Returns the chips of a name or of several; none of None.

    Args:
        names: "qualcomm:SM8750", or a list of such names; in any case, and the vendor
            may be left out.

    Raises:
        InvalidArgumentError: if nobody knows a chip, with the nearest names.
        ExportError: if LiteRT's compiler is not there.

    Example:

    >>> print(*targets_of(["qualcomm:sm8750", "tensor-g5"]))
    qualcomm:SM8750 google:Tensor_G5
    """
    if names is None:
        return ()
    if not isinstance(names, str | Iterable):
        raise _unknown(names, ())
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise _unknown(names, ())
    _check_compiler()
    known = {
        _plain(chip): Target(vendor, chip)
        for vendor in VENDORS.values()
        for chip in vendor.chips
    }
    return tuple(dict.fromkeys(_target(name, known) for name in wanted))


def check_libraries(targets: Iterable[Target]) -> None:
    """Raises `ExportError` where libraries of a vendor are not installed."""
    missing = {one.vendor.name: one.vendor for one in targets}
    missing = {name: one for name, one in missing.items() if not one.is_installed}
    if not missing:
        return
    packages = [one.package for one in missing.values()]
    says = [one.says for one in missing.values() if one.says]
    raise ExportError(
        "LiteRT's compiler loads libraries of the NPU's vendor, which are not here.",
        received=f"compile_for of {', '.join(missing)}; nothing was converted",
        expected=", ".join(packages),
        fix="; ".join(
            [
                f"pip install {' '.join(packages)}, in the version of ai-edge-litert, "
                "on Linux for x86; it downloads the libraries from the vendor's own "
                "server while it is installed, under the vendor's terms",
                *says,
            ]
        ),
    )


def _check_compiler() -> None:
    package = importlib.util.find_spec("ai_edge_litert")
    if package is not None and importlib.util.find_spec(_COMPILER) is not None:
        folder = Path(str(package.origin)).parent / "tools"
        if any(folder.glob("apply_plugin_main*")):
            return
    raise ExportError(
        "LiteRT's compiler for NPUs is not here.",
        received="an environment without it",
        expected="ai-edge-litert from 2.1 on, on Linux for x86",
        fix="pip install -U ai-edge-litert, on such a machine",
    )


def _target(name: Any, known: dict[str, Target]) -> Target:
    words = str(name).split(":")
    found = known.get(_plain(words[-1]))
    vendor = _plain(words[0]) if len(words) == 2 else ""
    if isinstance(name, str) and len(words) <= 2 and found is not None:
        known_as = "", found.vendor.name, _plain(found.vendor.backend)
        if vendor in known_as:
            return found
    raise _unknown(name, [str(target) for target in known.values()])


def _unknown(name: Any, known: Iterable[str]) -> InvalidArgumentError:
    every = {one.lower(): one for one in known}
    near = difflib.get_close_matches(str(name).lower(), every, n=3, cutoff=0.0)
    chips = ", ".join(f"{v.name}: {' '.join(v.chips)}" for v in VENDORS.values())
    return InvalidArgumentError(
        "Unknown chip in `compile_for`.",
        received=repr(name),
        expected=f"a vendor and its chip, or a list of such, of {chips}"
        if every
        else 'a vendor and its chip, such as "qualcomm:SM8750", or a list of such',
        fix=f"the nearest are {', '.join(repr(every[one]) for one in near)}; a phone "
        "says its own by `adb shell getprop ro.soc.model`"
        if near
        else None,
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
