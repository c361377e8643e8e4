"""What compression changed, measure by measure."""

from __future__ import annotations

import dataclasses

import numpy as np


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
