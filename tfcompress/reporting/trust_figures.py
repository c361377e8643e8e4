"""The figures of a trust report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tfcompress.reporting.drawing import ReportFigure, legend_above, short
from tfcompress.reporting.palette import Palette
from tfcompress.trustworthiness import ReliabilityBin, TrustReport

# More classes than that cannot be read; those that changed most are shown.
_CLASSES = 20


def trust_figures(trust: TrustReport) -> Iterator[ReportFigure]:
    """Yields the figures of what was measured."""
    classes = _shown(trust)
    some = len(classes) < len(trust.classes)
    which = f" The {len(classes)} classes that changed most." if some else ""
    side = min(2.1 + 0.27 * len(classes), 6.2)
    yield ReportFigure(
        "classes",
        "Recall of each class",
        "Before and after, in points; the largest loss on top." + which,
        (9.0, 0.9 + 0.27 * len(classes)),
        partial(_recalls, trust, classes),
    )
    yield ReportFigure(
        "confusion",
        "Confusion",
        "Samples by label (row) and answer (column). A cell is as strong as its share "
        "of the row; the diagonal is right." + which,
        (9.0, side),
        partial(_confusions, trust, classes),
    )
    yield ReportFigure(
        "calibration",
        "Calibration",
        "How often answers are right, by how sure the model is of them. On the "
        "diagonal, confidence can be taken at its word.",
        (9.0, 3.3),
        partial(_calibration, trust),
    )
    if trust.corruptions:
        yield ReportFigure(
            "corruptions",
            "Corruptions and attack",
            "Accuracy in per cent on inputs as they are, corrupted (averaged over "
            "severities) and attacked.",
            (9.0, 3.4),
            partial(_corruptions, trust),
        )
    if trust.saliency is not None:
        yield ReportFigure(
            "saliency",
            "Explanations",
            "Do both models look at the same parts of an input? Rank correlation of "
            f"{trust.saliency.method} maps, sample by sample: 1 is the same order.",
            (9.0, 2.4),
            partial(_saliency, trust.saliency.correlations),
        )


def _shown(trust: TrustReport) -> list[int]:
    """Returns the classes to show, the largest loss of recall first."""
    seen = [n for n, one in enumerate(trust.classes) if one.support]
    changes = {n: trust.classes[n].recall.change for n in seen}
    most = sorted(seen, key=lambda n: -abs(changes[n]))[:_CLASSES]
    return sorted(most, key=lambda n: changes[n])


def _recalls(
    trust: TrustReport, classes: list[int], figure: Any, palette: Palette
) -> None:
    axes = figure.subplots()
    places = np.arange(len(classes))
    changes = [trust.classes[n].recall for n in classes]
    ends = (
        ([one.original for one in changes], palette.original, trust.original),
        ([one.compressed for one in changes], palette.compressed, trust.compressed),
    )
    lost = [palette.accent if one.change < 0 else palette.muted for one in changes]
    axes.hlines(places, ends[0][0], ends[1][0], color=lost, linewidth=3, alpha=0.5)
    for values, colour, name in ends:
        axes.scatter(values, places, s=44, color=colour, zorder=3, label=short(name))
    for place, one in zip(places, changes):
        axes.annotate(
            f"{100 * one.change:+.1f}",
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=palette.ink,
        )
    names = [short(trust.classes[n].name, 24) for n in classes]
    axes.set_yticks(places, names, color=palette.ink)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="y", visible=False)
    legend_above(axes)


def _confusions(
    trust: TrustReport, classes: list[int], figure: Any, palette: Palette
) -> None:
    classes = sorted(classes)
    names = [short(trust.classes[n].name, 12) for n in classes]
    panels = figure.subplots(1, 2, sharey=True)
    both = (
        (trust.original, trust.confusion_original, palette.original),
        (trust.compressed, trust.confusion_compressed, palette.compressed),
    )
    for axes, (title, counts, colour) in zip(panels, both):
        table = np.array(counts)
        shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.set_title(short(title))
        for row, label in enumerate(classes):
            for column, answer in enumerate(classes):
                _cell(axes, (column, row), shares[label, answer], colour, palette)
                count = table[label, answer]
                if count and len(classes) <= 12:
                    strong = shares[label, answer] > 0.55
                    axes.text(
                        column,
                        row,
                        f"{count}",
                        ha="center",
                        va="center",
                        fontsize=7,
                        color=palette.surface if strong else palette.ink,
                    )
        axes.set_xlim(-0.5, len(classes) - 0.5)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(classes)), names, fontsize=8)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("answer")
    panels[0].set_ylabel("label")


def _cell(
    axes: Any, place: tuple[int, int], share: float, colour: str, palette: Palette
) -> None:
    from matplotlib.patches import Rectangle

    corner, side = (place[0] - 0.47, place[1] - 0.47), 0.94
    axes.add_patch(Rectangle(corner, side, side, color=palette.grid, alpha=0.35, lw=0))
    if share:
        # Errors are few; a square root lets one see them.
        strength = float(np.sqrt(share))
        axes.add_patch(
            Rectangle(corner, side, side, color=colour, alpha=strength, lw=0)
        )


def _calibration(trust: TrustReport, figure: Any, palette: Palette) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    both = (
        (trust.original, trust.reliability_original, palette.original),
        (trust.compressed, trust.reliability_compressed, palette.compressed),
    )
    errors = (trust.calibration_error.original, trust.calibration_error.compressed)
    for axes, (title, bins, colour), error in zip(panels, both, errors):
        axes.set_title(f"{short(title)} · ECE {error:.2%}")
        _reliability(axes, bins, colour, palette)
        axes.set_xlabel("confidence")
    panels[0].set_ylabel("share of answers that are right")


def _reliability(
    axes: Any, bins: tuple[ReliabilityBin, ...], colour: str, palette: Palette
) -> None:
    width = 1 / len(bins)
    total = sum(one.count for one in bins)
    for number, one in enumerate(bins):
        if one.count:
            axes.bar(
                number * width,
                one.accuracy,
                width=0.9 * width,
                align="edge",
                color=colour,
                # Bins of few samples say little.
                alpha=0.35 + 0.65 * min(1.0, 10 * one.count / total),
            )
    axes.plot([0, 1], [0, 1], color=palette.accent, linewidth=1.2, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _corruptions(trust: TrustReport, figure: Any, palette: Palette) -> None:
    axes = figure.subplots()
    clean = trust.corruptions[0].accuracy
    found = {"clean": clean, **trust.corruption_means}
    if trust.attack is not None:
        found[f"FGSM {trust.attack.epsilon:.2g}"] = trust.attack.accuracy
    places = np.arange(len(found))
    for shift, name, colour, label in (
        (-0.2, "original", palette.original, trust.original),
        (0.2, "compressed", palette.compressed, trust.compressed),
    ):
        heights = [getattr(change, name) for change in found.values()]
        axes.bar(places + shift, heights, width=0.36, color=colour, label=short(label))
        for place, height in zip(places, heights):
            axes.annotate(
                f"{100 * height:.0f}",
                (place + shift, height),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=palette.muted,
            )
    names = [name.replace("_", "\n") for name in found]
    axes.set_xticks(places, names, color=palette.ink)
    axes.set_ylim(0, 1.06)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="x", visible=False)
    legend_above(axes)


def _saliency(correlations: tuple[float, ...], figure: Any, palette: Palette) -> None:
    axes = figure.subplots()
    low = min(0.0, float(np.floor(10 * min(correlations)) / 10))
    edges = np.linspace(low, 1.0, 41)
    axes.hist(correlations, bins=edges, color=palette.compressed, rwidth=0.9)
    mean = float(np.mean(correlations))
    axes.axvline(mean, color=palette.accent, linewidth=1.4, linestyle="--")
    axes.annotate(
        f"mean {mean:.3f}",
        (mean, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-6, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=palette.ink,
    )
    axes.set_xlim(low, 1.0)
    axes.set_xlabel("rank correlation")
    axes.set_ylabel("samples")
    axes.grid(axis="x", visible=False)
