"""What `trust` measures with, and the limits that can fail a build."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tfcompress.core.arguments import integer, number
from tfcompress.core.errors import InvalidArgumentError


@dataclasses.dataclass(frozen=True)
class TrustThresholds:
    """Limits on what compression may change; None is not checked.

    When to use: in a build, so that a model that lost something is not shipped.

    Args:
        min_agreement: least share of equal top-1 answers, from 0 to 1.
        max_accuracy_drop: most accuracy lost, as a share of all samples.
        max_class_recall_drop: most recall lost by any one class.
        max_calibration_increase: most that the expected calibration error may grow.
        max_corruption_drop: most accuracy that the compressed model may lie below the
            original under the same corruption, averaged over severities.
        max_attack_drop: the same under the FGSM attack crafted on the original.
        min_saliency_correlation: least mean rank correlation of explanations, from
            -1 to 1.

    Raises:
        InvalidArgumentError: if a limit is out of its range.

    Example:

    >>> TrustThresholds(min_agreement=0.98).max_accuracy_drop is None
    True
    """

    min_agreement: float | None = None
    max_accuracy_drop: float | None = None
    max_class_recall_drop: float | None = None
    max_calibration_increase: float | None = None
    max_corruption_drop: float | None = None
    max_attack_drop: float | None = None
    min_saliency_correlation: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            lowest = -1.0 if name == "min_saliency_correlation" else 0.0
            if value is not None:
                number(
                    value,
                    f"`{name}` is out of range.",
                    f"[{lowest}, 1]",
                    f"a number from {lowest:g} to 1, or None",
                    fix="shares are fractions: one per cent is 0.01",
                )

    @property
    def given(self) -> bool:
        """Whether anything is checked."""
        return any(limit is not None for limit in dataclasses.asdict(self).values())

    @classmethod
    def of(cls, given: Any) -> TrustThresholds:
        """Returns `given`, a dict of its fields or None as thresholds."""
        if isinstance(given, cls):
            return given
        return _made(cls, given or {}, "thresholds")


@dataclasses.dataclass(frozen=True)
class TrustSettings:
    """How `trust` measures; its keyword arguments, which explains them."""

    corruptions: str | Sequence[str] = "auto"
    severities: Sequence[int] = (1, 3, 5)
    epsilon: float = 8 / 255
    value_range: tuple[float, float] | None = None
    from_logits: bool | None = None
    samples: int = 1000
    saliency_samples: int = 100
    examples: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "saliency_samples", "examples", "seed"):
            value, least = getattr(self, name), int(name == "samples")
            integer(value, f"`{name}` is out of range.", low=least)
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            _refuse("severities", self.severities, "whole numbers from 1 to 5")
        expected = "a share of the value range, from 0 to 1"
        number(self.epsilon, "`epsilon` is out of range.", "[0, 1]", expected)
        if self.value_range is not None and not (
            len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]
        ):
            _refuse("value_range", self.value_range, "(lowest, highest)")

    @classmethod
    def of(cls, given: dict[str, Any]) -> TrustSettings:
        """Returns keyword arguments as settings."""
        return _made(cls, given, "keyword arguments")


def _made(cls: Any, given: dict[str, Any], what: str) -> Any:
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(given) - set(known)) if isinstance(given, dict) else [given]
    if unknown:
        raise InvalidArgumentError(
            f"Unknown {what} of `trust`.",
            received=", ".join(map(str, unknown)),
            expected=", ".join(known),
        )
    return cls(**given)


def _refuse(name: str, value: Any, expected: str) -> None:
    raise InvalidArgumentError(
        f"`{name}` is out of range.", received=repr(value), expected=expected
    )
