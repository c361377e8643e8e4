"""Random: the control that every criterion must beat."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import integer
from tfcompress.pruning.criteria.base import CRITERIA, Criterion


@CRITERIA.register("random")
class Random(Criterion):
    """Keeps weights by lot.

    When to use: as the control in a comparison. What it loses is what sparsity alone
    costs; what another criterion loses less is what that criterion is worth.

    Source: Liu et al., "The Unreasonable Effectiveness of Random Pruning", 2022. The
    score of a weight is drawn once, uniformly from [0, 1), and holds for the whole
    fit: masks only lose weights as sparsity grows, and a resumed run goes on with
    the same lot.

    Args:
        seed: an int >= 0. Equal seeds draw equal lots for a kernel of the same path and
            shape.

    Example:

    >>> from tfcompress.pruning.sites import select_sites
    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="d")])
    >>> site, = select_sites(model)
    >>> one, two = (Random(seed=3).for_site(site).score(site.variable) for _ in "ab")
    >>> bool(ops.all(one == two))
    True
    """

    def __init__(self, seed: int = 0):
        self.seed = integer(seed, "`seed` of Random must be an int.", low=0)

    def build(self, site: Any) -> None:
        key = zlib.crc32(f"{site.path}.{site.kernel.attribute}".encode())
        generator = np.random.default_rng([self.seed, key])
        self._lot = generator.random(tuple(site.variable.shape), dtype="float32")

    def score(self, weights: Any) -> Any:
        return ops.convert_to_tensor(self._lot)

    def scores_of(self, variable: keras.Variable) -> np.ndarray:
        key = zlib.crc32(variable.path.encode())
        return np.random.default_rng([key, self.seed]).random(tuple(variable.shape))
