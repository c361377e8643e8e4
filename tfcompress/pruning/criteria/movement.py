"""Movement: weights that training moves towards zero go first."""

from typing import Any

from keras import ops

from tfcompress.pruning.criteria.base import CRITERIA, GradientCriterion


@CRITERIA.register("movement")
class Movement(GradientCriterion):
    """Keeps the weights that training moves away from zero.

    When to use: to fine-tune a pretrained model for another task: what was large for
    the old task need not matter for the new one.

    Source: Sanh et al., "Movement Pruning", 2020. The score is the sum of `-g * w` over
    the steps so far, or with `decay < 1` its moving average. A weight that has gone
    keeps the score with which it went, and comes back when others fall below it.

    Args:
        decay: 1.0 for the paper's sum, or the share of the average that each step
            keeps, in [0, 1). See `GradientCriterion` for what a resumed run loses.

    Example:

    >>> grows, shrinks = ops.array([1.0, 1.0]), ops.array([-0.5, 0.5])
    >>> Movement().measure(grows, shrinks).numpy().tolist()
    [0.5, -0.5]
    """

    reduction = "sum"

    def __init__(self, decay: float = 1.0):
        super().__init__(0.0 if decay == 1 else decay)
        self.decay = float(decay)

    def measure(self, weights: Any, gradient: Any) -> Any:
        return -gradient * weights

    def observe(self, weights: Any, gradient: Any) -> None:
        new = self.measure(weights, gradient)  # zero for a weight that has gone
        if self.decay < 1:
            present = ops.not_equal(weights, 0)
            new = new - ops.where(present, (1 - self.decay) * self.evidence, 0.0)
        self.evidence.assign(self.evidence + new)

    def score(self, weights: Any) -> Any:
        return ops.convert_to_tensor(self.evidence)
