"""Colours of figures, and what a page replaces them with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@dataclasses.dataclass(frozen=True)
class Palette:
    """The colours a figure is drawn in, by what they stand for."""

    ink: str = "#1f2328"
    muted: str = "#69707a"
    grid: str = "#e3e5e8"
    surface: str = "#ffffff"
    original: str = "#98a2b3"
    compressed: str = "#0b7f86"
    accent: str = "#c2571a"


#: For a page: each colour is a placeholder that no figure has otherwise.
PLACEHOLDERS = Palette(
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606", "#070707"
)


def with_variables(svg: str) -> str:
    """Returns a drawing in which each placeholder is a CSS variable.

    >>> with_variables('<path style="fill: #060606"/>')
    '<path style="fill: var(--compressed)"/>'
    """
    for name, colour in dataclasses.asdict(PLACEHOLDERS).items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


@contextmanager
def styled(palette: Palette) -> Iterator[None]:
    """Draws without frames, in the colours of a palette."""
    from matplotlib import rc_context

    style: Any = {
        "axes.axisbelow": True,
        "axes.edgecolor": palette.grid,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": palette.muted,
        "axes.labelsize": 9,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": palette.ink,
        "axes.titlelocation": "left",
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "figure.facecolor": "none",
        "font.size": 9,
        "grid.color": palette.grid,
        "grid.linewidth": 0.7,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "legend.labelcolor": palette.ink,
        "svg.fonttype": "none",
        # Equal reports make equal pages.
        "svg.hashsalt": "tfcompress",
        "text.color": palette.ink,
        # Names of layers may hold dollar signs.
        "text.parse_math": False,
        "xtick.color": palette.muted,
        "xtick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.color": palette.muted,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
    }
    with rc_context(style):
        yield
