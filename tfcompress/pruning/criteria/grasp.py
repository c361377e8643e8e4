"""GraSP: which weights the first gradients need to go on flowing."""

from typing import Any

import keras
from keras import ops

from tfcompress.pruning.criteria.base import CRITERIA
from tfcompress.pruning.criteria.snip import Snip


@CRITERIA.register("grasp")
class Grasp(Snip):
    """Keeps the weights without which the gradient, and so learning, would fade.

    When to use: as `Snip`, to train a sparse network from the first steps on, with a
    schedule such as `ConstantSparsity(0.9, begin_step=9)` and `scope="global"`. Unlike
    SNIP it tells a weight that helps from one that is merely sensitive.

    Source: Wang et al., "Picking Winning Tickets Before Training by Preserving
    Gradient Flow", 2020. Removing `w` changes the squared norm of the gradient `g` by
    about `-2 w * (H g)`, so the score is `w * (H g)`. The paper finds `H g` by a
    second backward pass; here the Hessian is the empirical Fisher matrix of the
    kernel, `H = mean(g_b g_b')` over batches `b`, which the steps that run anyway
    give: `H g = mean(g_b * (g_b . g))`, with `g` the mean of the gradients up to `b`.

    Args:
        batches: how many batches to average over, >= 1. The schedule should begin
            no earlier: step `batches - 1` sees them all.

    Example:

    >>> Grasp(batches=10).get_config()
    {'batches': 10}
    """

    def build(self, site: Any) -> None:
        super().build(site)
        self.total = keras.Variable(
            ops.zeros(site.variable.shape, "float32"),
            trainable=False,
            dtype="float32",
        )

    def observe(self, weights: Any, gradient: Any) -> None:
        wanted = ops.cast(self.seen < self.batches, "float32")
        self.total.assign(self.total + wanted * gradient)
        count = ops.cast(ops.minimum(self.seen + 1, self.batches), "float32")
        flow = ops.sum(gradient * self.total) / count
        super().observe(weights, gradient * flow)

    def score(self, weights: Any) -> Any:
        return ops.convert_to_tensor(self.evidence)
