"""The two models on the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.core.data import columns_of
from tfcompress.core.errors import InvalidArgumentError, VerificationError
from tfcompress.trustworthiness.corruptions import is_image
from tfcompress.trustworthiness.predictions import Columns, Subject, class_numbers
from tfcompress.trustworthiness.settings import TrustSettings
from tfcompress.trustworthiness.value_range import ValueRange


class Pair:
    """The original and the compressed model, run on all samples.

    Args:
        original, compressed, compressed_model, inputs, labels: as for `trust`.
        settings: how to measure.

    Attributes:
        columns: the samples by the names of the original's inputs.
        labels: their class numbers.
        ranges: where the values of each input lie that can be corrupted: floats, and
            images of bytes.
        probabilities: of both models, one row for each sample.
        form: a Keras form of the compressed model; None if there is none.
        form_agreement: share of samples it answers as the compressed model does; None
            where it is the compressed model.
    """

    def __init__(
        self,
        original: Any,
        compressed: Any,
        compressed_model: Any,
        inputs: Any,
        labels: Any,
        settings: TrustSettings,
    ):
        self.original = Subject(original, "original", inputs)
        # What is broken here is not the user's argument, but what compression made.
        self.compressed = Subject(compressed, "compressed", inputs, VerificationError)
        self.columns: Columns = columns_of(inputs, self.original.runner.inputs)
        self.probabilities = (
            self.original.start(self.columns, settings.from_logits),
            self.compressed.start(self.columns, settings.from_logits),
        )
        self.classes = self._common_classes()
        self.labels = class_numbers(labels, self.samples, self.classes)
        self.ranges = {
            name: ValueRange.of(values, settings.value_range)
            for name, values in self.columns.items()
            if values.dtype.kind == "f" or is_image(values)
        }
        self.form = self.compressed if self.compressed.model is not None else None
        self.form_agreement: float | None = None
        if compressed_model is not None:
            self.form = Subject(compressed_model, "compressed", inputs)
            shares = self.form.start(self.columns, settings.from_logits)
            same = shares.argmax(axis=1) == self.answers[1]
            self.form_agreement = float(np.mean(same))

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.probabilities[0])

    @property
    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """The class that each model gives each sample."""
        first, second = (shares.argmax(axis=1) for shares in self.probabilities)
        return first, second

    def part(self, places: np.ndarray) -> Columns:
        """Returns the samples at these places."""
        return {name: values[places] for name, values in self.columns.items()}

    def picture(self, place: int) -> np.ndarray | None:
        """Returns a sample as an image of bytes; None if no input holds images."""
        for name, values in self.columns.items():
            if name in self.ranges and is_image(values):
                unit = self.ranges[name].to_unit(values[place])
                return np.rint(255 * unit).astype("uint8")
        return None

    def _common_classes(self) -> int:
        before, after = self.original.outputs.classes, self.compressed.outputs.classes
        if before != after:
            raise InvalidArgumentError(
                "The two models differ in their number of classes.",
                received=f"{after} in {self.compressed.name!r}",
                expected=f"{before}, as in {self.original.name!r}",
                fix="compare a compressed model with the one that it was made from",
            )
        return before
