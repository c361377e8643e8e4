"""Taylor: how much the loss changes when a weight goes."""

from typing import Any

from keras import ops

from tfcompress.pruning.criteria.base import CRITERIA, GradientCriterion


@CRITERIA.register("taylor")
class Taylor(GradientCriterion):
    """Keeps the weights whose removal would change the loss most.

    When to use: for channels and blocks, where magnitudes of different layers do not
    compare, and with `scope="global"`.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning",
    2019. To first order, removing a weight `w` with gradient `g` changes the loss by
    `g * w`; the score is the moving average of `(g * w) ** 2`, and of a channel the
    sum of its weights'.

    Args:
        decay: share of the average that each step keeps, in [0, 1). See
            `GradientCriterion` for what a resumed run loses.

    Example:

    >>> Taylor().measure(ops.array([2.0, 0.1]), ops.array([0.5, 1.0])).numpy().tolist()
    [1.0, 0.010000000707805157]
    """

    needs = "gradients"
    reduction = "sum"

    def measure(self, weights: Any, gradient: Any) -> Any:
        return ops.square(weights * gradient)
