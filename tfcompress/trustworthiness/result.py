"""What `trust` returns."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfcompress.core.errors import VerificationError
from tfcompress.core.json import dumps
from tfcompress.trustworthiness import summary
from tfcompress.trustworthiness.settings import TrustThresholds


@dataclasses.dataclass(frozen=True)
class Change:
    """One measure, before and after compression.

    >>> Change(0.9, 0.875).change
    -0.025000000000000022
    """

    original: float
    compressed: float

    @property
    def change(self) -> float:
        """The compressed model's minus the original's."""
        return self.compressed - self.original


@dataclasses.dataclass(frozen=True)
class ClassChange:
    """What compression did to one class.

    Attributes:
        name: what the class is called.
        support: how many samples are labelled with it.
        recall: share of those that are found; NaN without any.
        accuracy: share of all samples for which "this class or not" is answered right.
    """

    name: str
    support: int
    recall: Change
    accuracy: Change


@dataclasses.dataclass(frozen=True)
class ChangedAnswer:
    """A sample that the compressed model answers otherwise.

    Attributes:
        index: its place along the first axis of `inputs`.
        label: the class it is labelled with.
        original: the class the original answers.
        compressed: the class the compressed model answers.
        confidence: the probability each gives to its own answer.
        image: how it looks, as bytes of shape `(height, width, channels)`; None where
            inputs are no images, and of all but the first `examples`.
    """

    index: int
    label: int
    original: int
    compressed: int
    confidence: Change
    image: np.ndarray | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @property
    def kind(self) -> str:
        """ "broken" (was right), "repaired" (became right) or "other"."""
        if self.original == self.label:
            return "broken"
        return "repaired" if self.compressed == self.label else "other"


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """Samples of like confidence; without any, both shares are NaN.

    Attributes:
        count: how many there are.
        confidence: their mean confidence.
        accuracy: the share of them that is answered right.
    """

    count: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class CorruptionResult:
    """Accuracy on corrupted inputs; "clean" with severity 0 is what to compare with.

    Attributes:
        name: the corruption.
        severity: from 1 to 5.
        accuracy: share of samples answered right.
    """

    name: str
    severity: int
    accuracy: Change


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """Accuracy under the fast gradient sign method.

    Attributes:
        epsilon: how far each value is moved, as a share of the value range.
        accuracy: of both models on samples that were crafted on the original.
        own: of the compressed model on samples crafted on its own Keras form; None
            where that has no gradient.
    """

    epsilon: float
    accuracy: Change
    own: float | None = None


@dataclasses.dataclass(frozen=True)
class SaliencyResult:
    """Do both models look at the same parts of their inputs?

    Attributes:
        method: "gradient" or "occlusion".
        correlation: mean Spearman rank correlation over samples, from -1 to 1.
        correlations: the one of each sample.
    """

    method: str
    correlation: float
    correlations: tuple[float, ...]


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
        return summary.verdict(self)

    def measures(self) -> list[list[str]]:
        """Returns the rows of the first table: measure, before, after, change."""
        return summary.measures(self)

    def class_rows(self) -> list[list[str]]:
        """Returns headings and a row for each class: samples, recall and accuracy."""
        return [list(summary.CLASS_HEADINGS), *summary.classes(self)]

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
        return summary.markdown(self)

    def __str__(self) -> str:
        return self.to_markdown()
