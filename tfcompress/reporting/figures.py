"""The figures of a report; which there are depends on what was measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from tfcompress.reporting.drawing import (
    ReportFigure,
    bars,
    bytes_text,
    legend_above,
    short,
)
from tfcompress.reporting.evidence import Evidence
from tfcompress.reporting.front import FrontPoint, pareto_front
from tfcompress.reporting.palette import Palette
from tfcompress.reporting.rows import Row

_LAYERS = 30
_LAYER_FIGURES = 4
_PANELS = 9


def report_figures(rows: tuple[Row, ...], evidence: Evidence) -> Iterator[ReportFigure]:
    """Yields the figures of everything that a report holds but trust."""
    count = len(rows)
    yield ReportFigure(
        "comparison",
        "Size, metric and latency",
        "The first model is the baseline.",
        (9.0, 0.9 + 0.36 * count),
        partial(_comparison, rows),
    )
    if evidence.front:
        yield ReportFigure(
            "front",
            "Candidates",
            "Every candidate that was tried. Those on the line are beaten by no other "
            "one in both size and metric.",
            (9.0, 3.8),
            partial(_front, evidence.front),
        )
    seen = [row for row in rows[1:] or rows if row.layers][:_LAYER_FIGURES]
    for number, row in enumerate(seen, start=1):
        shown = min(len(row.layers), _LAYERS)
        largest = f" (the {shown} largest)" if shown < len(row.layers) else ""
        yield ReportFigure(
            f"layers-{number}",
            f"Layers of {row.name}",
            f"Bytes before packing, share of zeros, and bits that a weight is stored "
            f"in{largest}.",
            (9.0, 0.8 + 0.25 * shown),
            partial(_layers, row),
        )
    if evidence.sensitivity:
        shown = min(len(evidence.sensitivity), _LAYERS)
        yield ReportFigure(
            "sensitivity",
            "Sensitivity",
            "What is lost when only this layer is compressed: the longer the bar, the "
            "more care it needs.",
            (9.0, 0.7 + 0.25 * shown),
            partial(_sensitivity, evidence.sensitivity),
        )
    if evidence.history:
        panels = _panels(evidence.history)
        yield ReportFigure(
            "history",
            "Training",
            "What was measured after each epoch.",
            (9.0, 2.6 * -(-len(panels) // 3)),
            partial(_history, panels),
        )


def _comparison(rows: tuple[Row, ...], figure: Any, palette: Palette) -> None:
    measures: list[tuple[str, str, Callable[[float], str]]] = [
        ("bytes", "size", bytes_text),
        ("metric", "metric", lambda value: f"{value:.4f}"),
        ("latency", "latency", lambda value: f"{value:.3g} ms"),
    ]
    if any(row.packed_size is not None for row in rows):
        measures.insert(1, ("bytes, packed", "packed_size", bytes_text))
    shown = [m for m in measures if any(getattr(row, m[1]) is not None for row in rows)]
    names = [row.name for row in rows]
    colours = [palette.original] + [palette.compressed] * (len(rows) - 1)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (title, field, write) in zip(panels, shown):
        values = [getattr(row, field) for row in rows]
        numbers = [np.nan if value is None else value for value in values]
        axes.set_title(title)
        bars(axes, names, numbers, colours, write, palette)
    # Panels share their axis, which each of them has turned round.
    if len(shown) % 2 == 0:
        panels[0].invert_yaxis()


def _front(points: tuple[FrontPoint, ...], figure: Any, palette: Palette) -> None:
    from matplotlib.ticker import LogLocator

    axes = figure.subplots()
    # What has no metric stands in the table only.
    points = tuple(point for point in points if np.isfinite(point.metric))
    best = pareto_front(points)
    others = [point for point in points if point not in best]
    axes.scatter(
        [point.size for point in others],
        [point.metric for point in others],
        s=30,
        color=palette.original,
        label="beaten by another one",
        zorder=2,
    )
    axes.step(
        [point.size for point in best],
        [point.metric for point in best],
        where="post",
        color=palette.compressed,
        linewidth=1.4,
        zorder=2,
    )
    axes.scatter(
        [point.size for point in best],
        [point.metric for point in best],
        s=42,
        color=palette.compressed,
        label="on the front",
        zorder=3,
    )
    chosen = [point for point in points if point.chosen]
    axes.scatter(
        [point.size for point in chosen],
        [point.metric for point in chosen],
        s=150,
        facecolors="none",
        edgecolors=palette.accent,
        linewidths=2,
        label="chosen",
        zorder=4,
    )
    sizes = [point.size for point in points] or [0]
    if min(sizes) > 0 and max(sizes) > 4 * min(sizes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: bytes_text(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.margins(x=0.12, y=0.14)
    for point in _apart(axes, [*chosen, *best]):
        axes.annotate(
            short(point.name, 26),
            (point.size, point.metric),
            xytext=(9, -11),
            textcoords="offset points",
            fontsize=8,
            color=palette.ink,
        )
    axes.set_xlabel("size")
    axes.set_ylabel("metric")
    legend_above(axes, 3)


def _apart(axes: Any, points: list[FrontPoint]) -> list[FrontPoint]:
    """Returns points in order, but those too close to an earlier one for its name."""
    kept: list[tuple[float, float]] = []
    named = []
    axes.autoscale_view()
    for point in points:
        place = axes.transData.transform((point.size, point.metric))
        x, y = axes.transAxes.inverted().transform(place)
        if all(abs(x - a) > 0.17 or abs(y - b) > 0.06 for a, b in kept):
            kept.append((x, y))
            named.append(point)
    return named


def _layers(row: Row, figure: Any, palette: Palette) -> None:
    largest = sorted(row.layers, key=lambda one: -one.count * one.bits)[:_LAYERS]
    layers = [layer for layer in row.layers if layer in largest]
    names = [layer.name for layer in layers]
    colours = [palette.compressed] * len(layers)
    columns: tuple[tuple[str, list[float], Callable[[float], str]], ...] = (
        ("bytes", [one.count * one.bits / 8 for one in layers], bytes_text),
        ("zeros", [one.sparsity for one in layers], lambda value: f"{value:.0%}"),
        ("bits", [float(one.bits) for one in layers], lambda value: f"{value:.0f}"),
    )
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (title, values, write) in zip(panels, columns):
        axes.set_title(title)
        bars(axes, names, values, colours, write, palette)
    panels[1].set_xlim(0, 1.3)


def _sensitivity(given: Any, figure: Any, palette: Palette) -> None:
    axes = figure.subplots()
    layers = sorted(given.items(), key=lambda item: -item[1])[:_LAYERS]
    names, values = zip(*layers)
    colours = [palette.accent] * len(names)
    bars(axes, names, values, colours, lambda value: f"{value:.4g}", palette)


def _panels(history: Any) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Returns curves by what they measure: training and validation go together.

    So do all layers of which `CompressionLogger` logs the same: "sparsity/a",
    "sparsity/b".
    """
    panels: dict[str, list[tuple[str, tuple[float, ...]]]] = {}
    for name, values in history.items():
        measure, _, layer = name.removeprefix("val_").partition("/")
        kind = "validation" if name.startswith("val_") else layer or "training"
        panel = f"{measure}, by layer" if layer else measure
        panels.setdefault(panel, []).append((kind, values))
    return dict(list(panels.items())[:_PANELS])


def _history(panels: dict, figure: Any, palette: Palette) -> None:
    from matplotlib.ticker import MaxNLocator

    rows = -(-len(panels) // 3)
    grid = figure.subplots(rows, min(len(panels), 3), squeeze=False)
    colours = {"training": palette.original, "validation": palette.compressed}
    others = [
        {"color": colour, "linestyle": line}
        for line in ("-", "--", ":", "-.")
        for colour in (palette.compressed, palette.accent, palette.original)
    ]
    for axes, (measure, curves) in zip(grid.flat, panels.items()):
        axes.set_title(short(measure, 34))
        for (kind, values), other in zip(curves, itertools.cycle(others)):
            axes.plot(
                np.arange(1, len(values) + 1),
                values,
                **({"color": colours[kind]} if kind in colours else other),
                label=short(kind, 24),
                linewidth=1.8,
                marker="o" if len(values) < 15 else None,
                markersize=3.5,
            )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        longest = max(len(values) for _, values in curves)
        axes.set_xlim(0.8, longest + 0.2)
        axes.set_xlabel("epoch")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[: len(others)], labels[: len(others)], loc="best")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
