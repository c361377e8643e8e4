"""The contracts of criteria, and the one list of them, which says what each needs."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import number
from tfcompress.core.configured import Configured
from tfcompress.core.registry import Registry

#: What a criterion may need; a use knows which of these it has.
NEEDS = {
    "weights": "needs the weights alone",
    "batch_norm": "needs a BatchNormalization behind the kernel",
    "gradients": "needs gradients of the loss",
    "training": "needs the steps of a training",
    "first_steps": "needs the first steps of a training, and judges what is untrained",
}


class Criterion(Configured):
    """Base class of pruning criteria: `score(weights)`, higher = keep.

    To write your own, override `score` and `get_config` and register the class with
    `keras.saving.register_keras_serializable`. Each kernel gets a copy of the
    criterion, on which `build(site)` is called once, before the first step. One that
    is registered in the list of criteria is found by name wherever there is what it
    needs: in `PruneWeights`, `PruneChannels`, `shrink` and recipes.

    Attributes:
        needs: what the scores need, of `NEEDS`. `"weights"` are everywhere;
            `"gradients"` say that `measure`, summed over data, is a score by itself.
        reduction: how the score of a block or channel follows from its weights':
            `"mean"` where scores are sizes, `"sum"` where they are shares of the
            loss, which add up.
    """

    needs: str = "weights"
    reduction: Literal["mean", "sum"] = "mean"

    def build(self, site: Any) -> None:
        """Looks at the kernel's surroundings, or creates variables, if need be."""

    def score(self, weights: Any) -> Any:
        """Returns a score of the same shape for each weight, inside the step.

        Args:
            weights: the kernel's values after the optimizer's update, float32.
        """
        raise NotImplementedError

    def scores_of(self, variable: keras.Variable) -> np.ndarray:
        """Returns a score for each weight of a variable, outside of a fit."""
        weights = ops.convert_to_tensor(ops.cast(variable, "float32"))
        return ops.convert_to_numpy(self.score(weights))

    def for_site(self, site: Any) -> Criterion:
        """Returns a copy of this criterion that is built for one kernel."""
        copy = type(self).from_config(self.get_config())
        copy.build(site)
        return copy


class GradientCriterion(Criterion):
    """Base class of criteria that score by evidence from gradients.

    The gradients are those of the training step itself; there is no second pass.
    Override `measure` (what one step says) and `score`; the evidence is the moving
    average `e <- decay * e + measure(w, g)`, times `1 - decay`. It is held in a
    variable that is no part of the model: a run that is resumed gathers it anew, so
    until the average has filled again (about `1 / (1 - decay)` steps) its masks may
    differ from those of an unbroken run.

    Args:
        decay: share of the evidence that remains after each step, in [0, 1).
    """

    needs = "training"

    def __init__(self, decay: float = 0.9):
        self.decay = number(
            decay,
            f"`decay` of {type(self).__name__} must be in [0, 1).",
            "[0, 1)",
            "a number such as 0.9, the share that each step keeps",
        )

    def build(self, site: Any) -> None:
        self.evidence = keras.Variable(
            ops.zeros(site.variable.shape, "float32"),
            trainable=False,
            dtype="float32",
        )

    def measure(self, weights: Any, gradient: Any) -> Any:
        """Returns what one step says about each weight.

        Args:
            weights: the kernel before the update, float32.
            gradient: gradient of the loss, float32, of the same shape.
        """
        raise NotImplementedError

    def observe(self, weights: Any, gradient: Any) -> None:
        """Adds one step to the evidence, inside the training step."""
        # The factor of the average is left for `score`: each step counts.
        new = self.measure(weights, gradient)
        self.evidence.assign(self.decay * self.evidence + new)

    def score(self, weights: Any) -> Any:
        return (1 - self.decay) * self.evidence


CRITERIA: Registry[Criterion] = Registry("pruning criterion", Criterion)


def criteria_with(kind: str, *available: str) -> Registry[Criterion]:
    """Returns the criteria that need one of these, those registered later too.

    Example:

    >>> criteria_with("criterion of gradients", "gradients").names()
    ['taylor']
    """

    def reason_against(cls: type[Criterion]) -> str:
        return "" if cls.needs in available else NEEDS.get(cls.needs, cls.needs)

    return CRITERIA.part(kind, reason_against)
