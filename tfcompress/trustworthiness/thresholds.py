"""Which limits a report breaks."""

from __future__ import annotations

from collections.abc import Iterator

from tfcompress.trustworthiness.result import TrustReport


def failures(report: TrustReport) -> Iterator[str]:
    """Yields one sentence for each limit that is not met, or was not measured."""
    worst = report.worst_class
    means = report.corruption_means
    corruption = min(means, key=lambda name: means[name].change) if means else ""
    attack, saliency = report.attack, report.saliency
    # name of the limit, what was measured, on what
    measured: tuple[tuple[str, float | None, str], ...] = (
        ("min_agreement", report.agreement, "top-1 agreement"),
        ("max_accuracy_drop", -report.accuracy.change, "the loss of accuracy"),
        (
            "max_class_recall_drop",
            -worst.recall.change,
            f"the loss of recall in class {worst.name!r}",
        ),
        (
            "max_calibration_increase",
            report.calibration_error.change,
            "the increase of the calibration error",
        ),
        (
            "max_corruption_drop",
            -means[corruption].change if means else None,
            f"the loss of accuracy under {corruption or 'corruptions'}",
        ),
        (
            "max_attack_drop",
            -attack.accuracy.change if attack else None,
            "the loss of accuracy under attack",
        ),
        (
            "min_saliency_correlation",
            saliency.correlation if saliency else None,
            "the rank correlation of explanations",
        ),
    )
    for name, value, what in measured:
        limit = getattr(report.thresholds, name)
        if limit is None:
            continue
        if value is None:
            yield f"{what} could not be measured, and {name} is {limit:g}"
        elif name.startswith("min_") and value < limit:
            yield f"{what} is {value:.4f}, below {limit:g}"
        elif name.startswith("max_") and value > limit:
            yield f"{what} is {value:.4f}, above {limit:g}"
