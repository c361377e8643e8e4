"""What figures have in common: names that fit, numbers one can read, bars."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfcompress.reporting.palette import Palette


@dataclasses.dataclass(frozen=True)
class ReportFigure:
    """One figure.

    Attributes:
        name: its id in a page.
        title: what it is about.
        caption: how to read it, in one or two sentences.
        size: width and height in inches.
        draw: `draw(figure, palette)` draws it on a Matplotlib figure or subfigure.
    """

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Any, Palette], None]


def short(name: str, length: int = 30) -> str:
    """Returns a name that fits; what is left out is its middle.

    >>> short("block_1/expand/kernel", 15)
    'block_1…/kernel'
    """
    if len(name) <= length:
        return name
    head = length // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


def bytes_text(value: float) -> str:
    """Returns bytes in decimal units.

    >>> bytes_text(920), bytes_text(41_300), bytes_text(2_000_000)
    ('920 B', '41.3 kB', '2.00 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.{2 if value < 10 * size else 1}f} {unit}"
    return f"{value:.0f} B"


def bars(
    axes: Any,
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    write: Callable[[float], str],
    palette: Palette,
) -> None:
    """Draws horizontal bars, the first on top, each with its number beside it."""
    places = np.arange(len(names))
    numbers = np.asarray(values, float)
    numbers[~np.isfinite(numbers)] = np.nan
    axes.barh(places, np.nan_to_num(numbers), color=list(colours), height=0.62)
    for place, value in zip(places, numbers):
        text = write(value) if np.isfinite(value) else "-"
        side = "right" if value < 0 else "left"
        axes.annotate(
            text,
            (value if np.isfinite(value) else 0, place),
            xytext=(-4 if value < 0 else 4, 0),
            textcoords="offset points",
            va="center",
            ha=side,
            color=palette.ink,
        )
    axes.set_yticks(places, [short(name) for name in names], color=palette.ink)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    # Room for the numbers.
    low, high = min(0.0, np.nanmin(numbers, initial=0)), np.nanmax(numbers, initial=0)
    width = (high - low) or 1.0
    axes.set_xlim(low - (0.25 * width if low < 0 else 0), high + 0.32 * width)


def legend_above(axes: Any, columns: int = 2) -> None:
    """Puts the legend over the plot, at its right end."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.2,
        columnspacing=1.2,
    )
