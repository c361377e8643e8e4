"""Accuracy of both models on corrupted and on attacked inputs."""

from __future__ import annotations

import numpy as np

from tfcompress.trustworthiness.corruptions import chosen, is_image
from tfcompress.trustworthiness.gradients import InputGradients
from tfcompress.trustworthiness.pair import Pair
from tfcompress.trustworthiness.predictions import Columns, Subject
from tfcompress.trustworthiness.result import AttackResult, Change, CorruptionResult
from tfcompress.trustworthiness.settings import TrustSettings


class Stress:
    """The samples that both models are put to the test with.

    Args:
        pair: the two models.
        places: which samples.
        settings: what to do with them.
    """

    def __init__(self, pair: Pair, places: np.ndarray, settings: TrustSettings):
        self.pair, self.settings = pair, settings
        self.columns, self.labels = pair.part(places), pair.labels[places]
        self.ranges = pair.ranges

    def accuracy(self, columns: Columns) -> Change:
        """Returns the accuracy of both models."""
        both = (self.pair.original, self.pair.compressed)
        return Change(*(self._share(subject, columns) for subject in both))

    def corruptions(self) -> tuple[CorruptionResult, ...]:
        """Returns accuracies without and with each corruption; empty if none fits."""
        images = any(is_image(self.columns[name]) for name in self.ranges)
        names = self.settings.corruptions
        if not self.ranges:
            return ()
        results = [CorruptionResult("clean", 0, self.accuracy(self.columns))]
        for name, corruption in chosen(names, images).items():
            for severity in self.settings.severities:
                corrupted = dict(self.columns)
                for key, span in self.ranges.items():
                    values = self.columns[key]
                    if corruption.inputs == "any" or is_image(values) == images:
                        unit = span.to_unit(values)
                        unit = corruption(unit, severity, self.settings.seed)
                        corrupted[key] = span.from_unit(unit)
                accuracy = self.accuracy(corrupted)
                results.append(CorruptionResult(name, severity, accuracy))
        return tuple(results)

    def attack(self) -> AttackResult | None:
        """Returns accuracies under the fast gradient sign method.

        Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples",
        2015: `x + epsilon * sign(gradient of the loss)`, kept within the value range.
        """
        attacked = self._attacked(self.pair.original)
        if attacked is None:
            return None
        own = None if self.pair.form is None else self._attacked(self.pair.form)
        return AttackResult(
            self.settings.epsilon,
            self.accuracy(attacked),
            None if own is None else self._share(self.pair.compressed, own),
        )

    def _attacked(self, victim: Subject) -> Columns | None:
        if victim.model is None or not self.ranges:
            return None
        gradients = InputGradients(victim).of_loss(self.columns, self.labels)
        if gradients is None:
            return None
        attacked = dict(self.columns)
        for name, gradient in gradients.items():
            span = self.ranges[name]
            moved = self.columns[name] + (
                self.settings.epsilon * span.width * np.sign(gradient)
            )
            attacked[name] = np.clip(moved, span.low, span.high).astype("float32")
        return attacked

    def _share(self, subject: Subject, columns: Columns) -> float:
        answers = subject.probabilities(columns).argmax(axis=1)
        return float(np.mean(answers == self.labels))
