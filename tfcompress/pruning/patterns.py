"""Patterns: the shapes that zeros may take."""

from __future__ import annotations

from typing import Any

from tfcompress.core.registry import Registry
from tfcompress.layer_rules import Kernel


class Pattern:
    """Base class of patterns: which weights are kept or dropped together.

    A pattern turns the scores of weights into scores of units (`reduce`), and a mask
    of units into a mask of weights (`expand`).
    """

    def reduce(self, scores: Any, kernel: Kernel) -> Any:
        """Returns one score per unit."""
        raise NotImplementedError

    def expand(self, mask: Any, shape: tuple[int, ...], kernel: Kernel) -> Any:
        """Returns the mask of weights that a mask of units means."""
        raise NotImplementedError

    def get_config(self) -> dict:
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Pattern:
        return cls(**config)


patterns: Registry[Pattern] = Registry("pruning pattern")


@patterns.register("unstructured")
class Unstructured(Pattern):
    """Each weight on its own.

    When to use: for the smallest file at a given accuracy. Ordinary kernels do not
    run faster for it.

    Example:

    >>> Unstructured().reduce([0.1, 0.2], Kernel("kernel"))
    [0.1, 0.2]
    """

    def reduce(self, scores: Any, kernel: Kernel) -> Any:
        return scores

    def expand(self, mask: Any, shape: tuple[int, ...], kernel: Kernel) -> Any:
        return mask
