"""SNIP: what the first gradients say, before training."""

from typing import Any

import keras
from keras import ops

from tfcompress.core.arguments import integer
from tfcompress.pruning.criteria.base import CRITERIA, GradientCriterion


@CRITERIA.register("snip")
class Snip(GradientCriterion):
    """Keeps the weights to which the loss is most sensitive at the start.

    When to use: to train a sparse network from the first steps on, with a schedule
    such as `ConstantSparsity(0.9, begin_step=9)` and `scope="global"`.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection
    Sensitivity", 2019. The sensitivity of the loss to the presence `c` of a weight
    is `|dL/dc| = |g * w|` at `c = 1`; here `g * w` is averaged over the first batches
    of the fit, whose steps train as usual, and is final after that.

    Args:
        batches: how many batches to average over, >= 1. The schedule should begin
            no earlier: step `batches - 1` sees them all.

    Example:

    >>> Snip().measure(ops.array([2.0, 1.0]), ops.array([-0.5, 0.1])).numpy().tolist()
    [-1.0, 0.10000000149011612]
    """

    needs = "first_steps"
    reduction = "sum"

    def __init__(self, batches: int = 1):
        problem = "`batches` of Snip must be a positive number of batches."
        super().__init__()
        self.batches = integer(batches, problem, low=1)

    def build(self, site: Any) -> None:
        super().build(site)
        self.seen = keras.Variable(0, trainable=False, dtype="int32")

    def measure(self, weights: Any, gradient: Any) -> Any:
        return weights * gradient

    def observe(self, weights: Any, gradient: Any) -> None:
        wanted = ops.cast(self.seen < self.batches, "float32")
        self.evidence.assign(self.evidence + wanted * self.measure(weights, gradient))
        self.seen.assign(ops.minimum(self.seen + 1, self.batches))

    def score(self, weights: Any) -> Any:
        return ops.abs(self.evidence)
