"""Magnitude: small weights go first."""

from typing import Any

from keras import ops

from tfcompress.core.arguments import one_of
from tfcompress.pruning.criteria.base import CRITERIA, Criterion


@CRITERIA.register("magnitude")
class Magnitude(Criterion):
    """Keeps the weights of largest magnitude.

    When to use: the default; it needs nothing but the weights.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", 2015. The score of a weight `w` is `|w| ** p`; `p` matters where
    scores are summed, as over blocks and channels.

    Args:
        p: exponent, 1 (L1) or 2 (L2).

    Example:

    >>> [float(x) for x in Magnitude().score(ops.array([-3.0, 0.5]))]
    [3.0, 0.5]
    """

    def __init__(self, p: int = 1):
        one_of(p, "`p` of Magnitude must be 1 or 2.", (1, 2))
        self.p = p

    def score(self, weights: Any) -> Any:
        return ops.abs(weights) if self.p == 1 else ops.square(weights)
