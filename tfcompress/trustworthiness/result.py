"""What `trust` returns, in figures and in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfcompress.core.errors import VerificationError
from tfcompress.core.html import html_table, paragraph
from tfcompress.core.tables import table
from tfcompress.core.text_json import dumps
from tfcompress.trustworthiness.changes import (
    AttackResult,
    Change,
    ChangedAnswer,
    ClassChange,
    CorruptionResult,
    ReliabilityBin,
    SaliencyResult,
)
from tfcompress.trustworthiness.settings import TrustThresholds

_CHANGED = 10
_CLASSES = 20
CLASS_HEADINGS = (
    *("class", "samples", "recall", "compressed", "change"),
    *("accuracy", "compressed", "change"),
)


@dataclasses.dataclass(frozen=True)
class TrustReport:
    """What compression changed apart from the size; `trust` makes one.

    `print(report)` gives markdown.

    Attributes:
        original, compressed: names of the two models.
        outputs: "logits" or "probabilities", what the original was found to give.
        samples: how many were compared.
        agreement: share, from 0 to 1, of samples with the same top-1 answer.
        accuracy: share answered right.
        calibration_error: expected calibration error, 15 bins.
        classes: one entry for each class.
        confusion_original, confusion_compressed: samples by label (row) and answer.
        reliability_original, reliability_compressed: the bins of the calibration error.
        changed: samples answered otherwise: those that broke first, then by confidence.
        corruptions: accuracy under each corruption and severity.
        attack: accuracy under attack; None where inputs have no gradient.
        saliency: agreement of explanations; None if it could not be measured.
        thresholds: what was asked for.
        failures: one sentence for each threshold that is not met.
        notes: what was not measured, or otherwise than one may expect, and why.
    """

    original: str
    compressed: str
    outputs: str
    samples: int
    agreement: float
    accuracy: Change
    calibration_error: Change
    classes: tuple[ClassChange, ...]
    confusion_original: tuple[tuple[int, ...], ...]
    confusion_compressed: tuple[tuple[int, ...], ...]
    reliability_original: tuple[ReliabilityBin, ...]
    reliability_compressed: tuple[ReliabilityBin, ...]
    changed: tuple[ChangedAnswer, ...]
    corruptions: tuple[CorruptionResult, ...] = ()
    attack: AttackResult | None = None
    saliency: SaliencyResult | None = None
    thresholds: TrustThresholds = dataclasses.field(default_factory=TrustThresholds)
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all thresholds that were given are met."""
        return not self.failures

    @property
    def worst_class(self) -> ClassChange:
        """The class that lost the most recall."""
        seen = [one for one in self.classes if one.support]
        return min(seen, key=lambda one: one.recall.change)

    @property
    def corruption_means(self) -> dict[str, Change]:
        """Accuracy under each corruption, averaged over its severities."""
        found: dict[str, list[Change]] = {}
        for one in self.corruptions:
            if one.severity:
                found.setdefault(one.name, []).append(one.accuracy)
        return {
            name: Change(
                float(np.mean([one.original for one in values])),
                float(np.mean([one.compressed for one in values])),
            )
            for name, values in found.items()
        }

    @property
    def verdict(self) -> str:
        """One sentence: passed, failed with the reasons, or that nothing was asked."""
        return _verdict(self)

    def measures(self) -> list[list[str]]:
        """Returns the rows of the first table: measure, before, after, change."""
        return _measures(self)

    def class_rows(self) -> list[list[str]]:
        """Returns headings and a row for each class: samples, recall and accuracy."""
        return [list(CLASS_HEADINGS), *_classes(self)]

    def _repr_html_(self) -> str:
        headings = ["measure", self.original, self.compressed, "change"]
        parts = [paragraph(self.verdict, strong=True)]
        parts += [html_table(headings, self.measures()), *map(paragraph, self.notes)]
        return "".join(parts)

    def raise_if_failed(self) -> TrustReport:
        """Returns itself if all thresholds are met.

        Raises:
            VerificationError: if one is not.
        """
        if not self.passed:
            raise VerificationError(
                f"{self.compressed!r} is not to be trusted as {self.original!r} is.",
                received="; ".join(self.failures),
                expected=f"all thresholds met on {self.samples} samples",
                fix="compress less, train longer or with distillation, or loosen a "
                "threshold if what is lost does not matter",
            )
        return self

    def to_json(self) -> str:
        """Returns everything but the images as JSON, unrounded; NaN becomes null."""
        fields = dataclasses.asdict(self)
        for answer, entry in zip(self.changed, fields["changed"]):
            del entry["image"]
            entry["kind"] = answer.kind
        fields.update(passed=self.passed, worst_class=self.worst_class.name)
        return dumps(fields)

    def to_markdown(self) -> str:
        """Returns the figures as tables."""
        return _markdown(self)

    def __str__(self) -> str:
        return self.to_markdown()


def _markdown(report: TrustReport) -> str:
    """Returns the whole report as markdown."""
    parts = [
        f"**{_verdict(report)}**",
        table(
            ["measure", report.original, report.compressed, "change"], _measures(report)
        ),
        f"Classes, the largest loss of recall first{_and_more(report)}:",
        table(CLASS_HEADINGS, _classes(report)[:_CLASSES]),
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


def _verdict(report: TrustReport) -> str:
    """Returns one sentence: passed, or what failed."""
    if report.failures:
        return f"FAILED on {report.samples:,} samples: {'; '.join(report.failures)}."
    if not report.thresholds.given:
        return f"Measured on {report.samples:,} samples; no thresholds were given."
    return f"Passed on {report.samples:,} samples."


def _measures(report: TrustReport) -> list[list[str]]:
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


def _classes(report: TrustReport) -> list[list[str]]:
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
