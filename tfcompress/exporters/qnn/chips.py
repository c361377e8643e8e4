"""Qualcomm's chips whose NPU is compiled for: what the compiler calls each of them.

Source: the tables of ExecuTorch (backends/qualcomm/serialization/qc_schema.py) and of
LiteRT (litert/vendors/qualcomm/core/schema/soc_table.cc), both by Qualcomm.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from tfcompress.core.errors import InvalidArgumentError


@dataclass(frozen=True)
class Chip:
    """What the compiler has to know of a chip.

    Attributes:
        name: that of the chip, or "v79" for any chip with this NPU.
        architecture: version of its Hexagon Tensor Processor (HTP).
        number: the compiler's own number of the chip; 0 for any.
    """

    name: str
    architecture: int
    number: int = 0


_TABLE = {
    68: {"sm8350": 30, "sa8295": 39, "sa8540": 62, "qcm6490": 93},
    69: {"sm8450": 36, "sm8475": 42, "sxr2230p": 53},
    73: {
        "sm8550": 43,
        "sxr1230p": 45,
        "ssg2115p": 46,
        "sa8255": 52,
        "ssg2125p": 58,
        "sc8380xp": 60,
        "qcs9100": 77,
    },
    75: {"sm8650": 57, "qcs8300": 82},
    79: {"sm8750": 69, "sxr2330p": 75},
    81: {"sa8797": 72, "sm8850": 87, "sar2230p": 95, "sw6100": 96, "sm8845": 97},
}
CHIPS = {
    chip.name: chip
    for architecture, numbers in _TABLE.items()
    for chip in (
        Chip(f"v{architecture}", architecture),
        *(Chip(name, architecture, number) for name, number in numbers.items()),
    )
}


def chip_of(soc: Any) -> Chip:
    """Returns the chip of a name, in any case; of "v79" or 79 for a whole architecture.

    Raises:
        InvalidArgumentError: if nobody knows it, with the nearest names.

    Example:

    >>> chip_of("SM8750")
    Chip(name='sm8750', architecture=79, number=69)
    >>> chip_of(75)
    Chip(name='v75', architecture=75, number=0)
    """
    is_number = isinstance(soc, int) and not isinstance(soc, bool)
    name = f"v{soc}" if is_number else str(soc).lower()
    if isinstance(soc, str) or is_number:
        name = f"v{name}" if name.isdigit() else name
        if name in CHIPS:
            return CHIPS[name]
    near = difflib.get_close_matches(name, CHIPS, n=3, cutoff=0.0)
    raise InvalidArgumentError(
        "Unknown `soc`.",
        received=repr(soc),
        expected=f"one of {', '.join(map(repr, CHIPS))}",
        fix=f"the nearest are {', '.join(map(repr, near))}; a phone says its own by "
        "`adb shell getprop ro.soc.model`",
    )
