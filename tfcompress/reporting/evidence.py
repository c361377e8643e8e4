"""What a report shows beside its rows: curves, candidates, layers, trust."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import keras
import numpy as np

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.reporting.front import FrontPoint
from tfcompress.trustworthiness import TrustReport


class EvidenceOptions(TypedDict, total=False):
    """The keyword arguments that become an `Evidence`, as an editor sees them."""

    history: keras.callbacks.History | Mapping[str, Sequence[float]]
    front: Sequence[FrontPoint]
    sensitivity: Mapping[str, float]
    trust: TrustReport | None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Where the rows of a report come from; all parts may be missing.

    Attributes:
        history: values after each epoch, by the name of what was measured.
        front: candidates of a search.
        sensitivity: what was lost when only this layer was compressed, by its name.
        trust: what compression changed apart from the size.
    """

    history: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    front: tuple[FrontPoint, ...] = ()
    sensitivity: Mapping[str, float] = dataclasses.field(default_factory=dict)
    trust: TrustReport | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Evidence:
        """Returns the keyword arguments of `report` as evidence.

        Raises:
            InvalidArgumentError: if one is unknown or is not what it should be.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InvalidArgumentError(
                "Unknown keyword arguments of `report`.",
                received=", ".join(unknown),
                expected=", ".join(known),
            )
        front = tuple(given.get("front") or ())
        _check(front, FrontPoint, "front", "a list of FrontPoint")
        trust = given.get("trust")
        _check(() if trust is None else (trust,), TrustReport, "trust", "a TrustReport")
        return cls(
            history=_curves(given.get("history")),
            front=front,
            sensitivity=_numbers(given.get("sensitivity")),
            trust=trust,
        )


def _check(values: Any, wanted: type, name: str, expected: str) -> None:
    wrong = [value for value in values if not isinstance(value, wanted)]
    if wrong:
        raise InvalidArgumentError(
            f"`{name}` is not what a report can show.",
            received=f"{type(wrong[0]).__name__}: {str(wrong[0])[:80]}",
            expected=expected,
        )


def _curves(given: Any) -> dict[str, tuple[float, ...]]:
    """Returns a `keras.callbacks.History` or a dict as numbers of each epoch."""
    logs = getattr(given, "history", given) or {}
    try:
        return {
            str(name): tuple(float(value) for value in values)
            for name, values in dict(logs).items()
            if np.ndim(values) == 1
        }
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            "`history` is not what a report can show.",
            received=f"{type(given).__name__} ({error})",
            expected="what `fit` returns, or a dict of name -> numbers, one an epoch",
        ) from error


def _numbers(given: Any) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in dict(given or {}).items()}
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            "`sensitivity` is not what a report can show.",
            received=f"{type(given).__name__} ({error})",
            expected="a dict of layer name -> number",
        ) from error
