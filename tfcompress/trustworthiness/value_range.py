"""Where the values of inputs lie, and moving them to [0, 1] and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfcompress.trustworthiness.corruptions import is_image


@dataclasses.dataclass(frozen=True)
class ValueRange:
    """The lowest and highest values of one input: numbers, or one for each feature."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, given: tuple[float, float] | None) -> ValueRange:
        """Finds the range of `values`, samples along the first axis.

        Images have the first of [0, 1], [-1, 1] and [0, 255] that holds all their
        values, or else what the values themselves span. Features have a range each.
        """
        if given is not None:
            return cls.span(*given)
        if is_image(values):
            low, high = float(values.min()), float(values.max())
            for usual in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
                if usual[0] <= low and high <= usual[1]:
                    return cls.span(*usual)
            return cls.span(low, high)
        # All axes but the last are places or times.
        axes = tuple(range(max(values.ndim - 1, 1)))
        return cls(values.min(axis=axes), values.max(axis=axes))

    @classmethod
    def span(cls, low: float, high: float) -> ValueRange:
        """Returns one range for all values."""
        return cls(np.asarray(low, "float32"), np.asarray(high, "float32"))

    @property
    def width(self) -> np.ndarray:
        """The highest minus the lowest; 0 where a feature is constant."""
        return self.high - self.low

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Returns values moved to [0, 1], cut off there."""
        width = np.where(self.width > 0, self.width, 1)
        return np.clip((values - self.low) / width, 0.0, 1.0)

    def from_unit(self, values: np.ndarray, dtype: Any = "float32") -> np.ndarray:
        """Undoes `to_unit`; integers are rounded."""
        found = values * self.width + self.low
        whole = np.issubdtype(dtype, np.integer)
        return (np.rint(found) if whole else found).astype(dtype)
