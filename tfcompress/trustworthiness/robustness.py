"""Accuracy of both models on corrupted and on attacked inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfcompress.trustworthiness.changes import AttackResult, Change, CorruptionResult
from tfcompress.trustworthiness.corruptions import Corruption, chosen, is_image
from tfcompress.trustworthiness.gradients import InputGradients
from tfcompress.trustworthiness.pair import Pair
from tfcompress.trustworthiness.predictions import Columns, Subject
from tfcompress.trustworthiness.settings import TrustSettings

# Samples that are corrupted at once: large images take much memory as float64.
_CHUNK = 256

# Samples by input name and the place of the first one -> other samples.
Transform = Callable[[Columns, slice], Columns]


class Stress:
    """The samples that both models are put to the test with.

    Args:
        pair: the two models.
        places: which samples.
        settings: what to do with them.
    """

    def __init__(self, pair: Pair, places: np.ndarray, settings: TrustSettings):
        self.pair, self.places, self.settings = pair, places, settings
        self.labels = pair.labels[places]

    def corruptions(self) -> tuple[CorruptionResult, ...]:
        """Returns accuracies without and with each corruption; empty if none fits."""
        ranges, columns = self.pair.ranges, self.pair.columns
        if not ranges:
            return ()
        images = any(is_image(columns[name]) for name in ranges)
        corruptions = chosen(self.settings.corruptions, images)
        clean = self._accuracies(lambda part, _: part)
        results = [CorruptionResult("clean", 0, clean)]
        for name, corruption in corruptions.items():
            for severity in self.settings.severities:
                transform = self._corrupting(corruption, severity, images)
                accuracy = self._accuracies(transform)
                results.append(CorruptionResult(name, severity, accuracy))
        return tuple(results)

    def attack(self) -> AttackResult | None:
        """Returns accuracies under the fast gradient sign method.

        Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples",
        2015: `x + epsilon * sign(gradient of the loss)`, kept within the value range.
        """
        transform = self._attacking(self.pair.original)
        if transform is None:
            return None
        accuracy = self._accuracies(transform)
        own = None if self.pair.form is None else self._attacking(self.pair.form)
        return AttackResult(
            self.settings.epsilon,
            accuracy,
            None if own is None else self._accuracy(own, self.pair.compressed),
        )

    def _corrupting(
        self, corruption: Corruption, severity: int, images: bool
    ) -> Transform:
        def transform(part: Columns, rows: slice) -> Columns:
            corrupted = dict(part)
            for name, span in self.pair.ranges.items():
                if corruption.inputs == "any" or is_image(part[name]) == images:
                    seed = (self.settings.seed, rows.start)
                    unit = corruption(span.to_unit(part[name]), severity, seed)
                    corrupted[name] = span.from_unit(unit, part[name].dtype)
            return corrupted

        return transform

    def _attacking(self, victim: Subject) -> Transform | None:
        """Returns what moves samples against their labels; None without gradients."""
        if victim.model is None or not self.pair.ranges:
            return None
        gradients = InputGradients(victim)
        first = gradients.of_loss(self.pair.part(self.places[:1]), self.labels[:1])
        if first is None:
            return None

        def transform(part: Columns, rows: slice) -> Columns:
            attacked = dict(part)
            found = gradients.of_loss(part, self.labels[rows]) or {}
            for name, gradient in found.items():
                span = self.pair.ranges[name]
                way = self.settings.epsilon * span.width * np.sign(gradient)
                moved = np.clip(part[name] + way, span.low, span.high)
                attacked[name] = moved.astype("float32")
            return attacked

        return transform

    def _accuracies(self, transform: Transform) -> Change:
        original, compressed = self.pair.original, self.pair.compressed
        return Change(*self._shares(transform, original, compressed))

    def _accuracy(self, transform: Transform, subject: Subject) -> float:
        (share,) = self._shares(transform, subject)
        return share

    def _shares(self, transform: Transform, *subjects: Subject) -> list[float]:
        """Returns the share of transformed samples that each model gets right."""
        right = [0] * len(subjects)
        for start in range(0, len(self.places), _CHUNK):
            rows = slice(start, start + _CHUNK)
            part = transform(self.pair.part(self.places[rows]), rows)
            for number, subject in enumerate(subjects):
                answers = subject.probabilities(part).argmax(axis=1)
                right[number] += int(np.sum(answers == self.labels[rows]))
        return [count / len(self.places) for count in right]
