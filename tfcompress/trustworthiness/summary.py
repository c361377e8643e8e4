"""A trust report in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfcompress.core.markdown import table

if TYPE_CHECKING:
    from tfcompress.trustworthiness.result import TrustReport

_CHANGED = 10
_CLASSES = 20
CLASS_HEADINGS = (
    *("class", "samples", "recall", "compressed", "change"),
    *("accuracy", "compressed", "change"),
)


def markdown(report: TrustReport) -> str:
    """Returns the whole report as markdown."""
    parts = [
        f"**{verdict(report)}**",
        table(
            ["measure", report.original, report.compressed, "change"], measures(report)
        ),
        f"Classes, the largest loss of recall first{_and_more(report)}:",
        table(CLASS_HEADINGS, classes(report)[:_CLASSES]),
    ]
    if report.changed:
        kinds = [answer.kind for answer in report.changed]
        parts += [
            f"{len(kinds)} answers changed: {kinds.count('broken')} broken, "
            f"{kinds.count('repaired')} repaired, {kinds.count('other')} wrong both "
            f"times. The first {min(_CHANGED, len(kinds))}:",
            table(["sample", "label", "original", "compressed"], _changed(report), 4),
        ]
    return "\n\n".join(parts + [f"- {note}" for note in report.notes])


def verdict(report: TrustReport) -> str:
    """Returns one sentence: passed, or what failed."""
    if report.failures:
        return f"FAILED on {report.samples:,} samples: {'; '.join(report.failures)}."
    if not report.thresholds.given:
        return f"Measured on {report.samples:,} samples; no thresholds were given."
    return f"Passed on {report.samples:,} samples."


def measures(report: TrustReport) -> list[list[str]]:
    """Returns what was measured: name, before, after and change in points."""
    rows = [
        ["top-1 agreement", "", f"{report.agreement:.2%}", ""],
        _row("accuracy", report.accuracy),
        _row("calibration error (ECE)", report.calibration_error),
    ]
    means = report.corruption_means
    if means:
        rows.append(_row("accuracy, clean", report.corruptions[0].accuracy))
    for name, change in means.items():
        rows.append(_row(f"accuracy, {name.replace('_', ' ')}", change))
    if report.attack is not None:
        name = f"accuracy, FGSM {report.attack.epsilon:.3g}"
        rows.append(_row(name, report.attack.accuracy))
        if report.attack.own is not None:
            own = f"{report.attack.own:.2%}"
            rows.append(["accuracy, FGSM on the compressed", "", own, ""])
    if report.saliency is not None:
        correlation = f"{report.saliency.correlation:.3f}"
        name = f"rank correlation of saliency ({report.saliency.method})"
        rows.append([name, "", correlation, ""])
    return rows


def _row(name: str, change: Any) -> list[str]:
    before, after = f"{change.original:.2%}", f"{change.compressed:.2%}"
    return [name, before, after, points(change.change)]


def points(change: float) -> str:
    """Returns a difference of shares in percentage points.

    >>> points(-0.0123), points(float("nan"))
    ('-1.23', '-')
    """
    return "-" if change != change else f"{100 * change:+.2f}"


def classes(report: TrustReport) -> list[list[str]]:
    """Returns what happened to each class, the largest loss of recall first."""
    seen = sorted(report.classes, key=lambda one: (not one.support, one.recall.change))
    rows = []
    for one in seen:
        recall = _row(one.name, one.recall) if one.support else [one.name, *"---"]
        accuracy = _row(one.name, one.accuracy)
        rows.append([one.name, f"{one.support:,}", *recall[1:], *accuracy[1:]])
    return rows


def _and_more(report: TrustReport) -> str:
    more = len(report.classes) - _CLASSES
    return f" ({more} more in the JSON)" if more > 0 else ""


def _changed(report: TrustReport) -> list[list[str]]:
    names = [one.name for one in report.classes]
    return [
        [
            str(one.index),
            names[one.label],
            f"{names[one.original]} ({one.confidence.original:.0%})",
            f"{names[one.compressed]} ({one.confidence.compressed:.0%})",
        ]
        for one in report.changed[:_CHANGED]
    ]
