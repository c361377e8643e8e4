"""The contract of a pruning criterion."""

from __future__ import annotations

from typing import Any

from tfcompress.core.registry import Registry


class Criterion:
    """Base class of pruning criteria: `score(weights)`, higher = keep.

    To write your own, override `score` and `get_config` and register the class with
    `keras.saving.register_keras_serializable`.
    """

    def score(self, weights: Any) -> Any:
        """Returns a score of the same shape for each weight, inside the step.

        Args:
            weights: the kernel's values after the optimizer's update.
        """
        raise NotImplementedError

    def get_config(self) -> dict:
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Criterion:
        return cls(**config)


criteria: Registry[Criterion] = Registry("pruning criterion")
