"""LAMP: magnitudes that compare across layers."""

import math
from typing import Any

from keras import ops

from tfcompress.pruning.criteria.base import CRITERIA, Criterion


@CRITERIA.register("lamp")
class Lamp(Criterion):
    """Keeps the weights that matter most to their own layer.

    When to use: with `scope="global"`, where plain magnitudes starve layers that
    happen to have small weights. Each layer keeps its largest weight at any
    sparsity. Within a layer it ranks as `Magnitude` does, so with `scope="layer"` it
    costs a sort and changes nothing.

    Source: Lee et al., "Layer-Adaptive Sparsity for the Magnitude-based Pruning",
    2021. The score is `w ** 2 / sum(v ** 2)` over the weights `v` of the same kernel
    that are no smaller than `w`.

    Example:

    >>> scores = Lamp().score(ops.array([1.0, -2.0, 3.0, 0.0]))
    >>> [round(float(score), 3) for score in scores]     # 1/14, 4/13, 9/9, 0
    [0.071, 0.308, 1.0, 0.0]
    """

    def score(self, weights: Any) -> Any:
        size = math.prod(weights.shape)
        squares = ops.reshape(ops.square(weights), (size,))
        order = ops.argsort(-squares)
        largest_first = ops.take(squares, order)
        # A kernel of zeros has scores of zero.
        total = ops.maximum(ops.cumsum(largest_first), 1e-30)
        scores = ops.scatter(ops.expand_dims(order, -1), largest_first / total, (size,))
        return ops.reshape(scores, weights.shape)
