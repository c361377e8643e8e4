"""PenalizeWeights: training pushes weights or channels to exactly zero."""

from __future__ import annotations

from typing import Any, Literal

from keras import ops

from tfcompress.core.arguments import number, one_of
from tfcompress.core.callback import FitCallback, attach, detach
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import Filters
from tfcompress.pruning.patterns import PATTERNS, NOfM, Pattern
from tfcompress.pruning.sites import Site, select_sites


class PenalizeWeights(FitCallback):
    """Pulls weights, blocks or channels towards zero while the model trains.

    When to use: before or together with `PruneWeights`, so that what is to be removed
    is small when it goes; or alone, to let the training decide how much can go. It
    works on any model, without rebuilding its layers with regularizers.

    Source: Parikh & Boyd, "Proximal Algorithms", 2014; for groups Yuan & Lin, "Model
    Selection and Estimation in Regression with Grouped Variables", 2006. After each
    step each unit `u` of the pattern is moved by the proximal operator of the
    penalty, with learning rate `r` and strength `s`:

    - norm 1 (unstructured: L1; blocks, channels: group lasso):
      `u <- u * max(0, 1 - r * s * sqrt(size(u)) / ||u||)`, which makes exact zeros;
    - norm 2 (L2, weight decay): `u <- u / (1 + r * s)`, which makes all small.

    Args:
        strength: `s`, >= 0; 1e-4 to 1e-2 are usual.
        norm: 1 or 2.
        pattern: what goes together; instance or name of a pattern other than N:M.
        filters: which layers: a regular expression on the layer's path, a layer
            class, a predicate, or a list of these. `None` means all.

    Raises:
        InvalidArgumentError: for a strength, norm or pattern that makes no sense, or
            `filters` that match nothing.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> _ = model.layers[0].kernel.assign([[1.0], [0.05]])
    >>> x = np.array([[1.0, 0.0]]); y = x[:, :1]
    >>> _ = model.fit(x, y, verbose=0, callbacks=[PenalizeWeights(1.0)])
    >>> model.layers[0].kernel.numpy().round(2).tolist()
    [[0.8999999761581421], [0.0]]
    """

    def __init__(
        self,
        strength: float,
        norm: Literal[1, 2] = 1,
        pattern: Pattern | dict | str = "unstructured",
        filters: Filters = None,
    ):
        super().__init__()
        number(
            strength,
            "`strength` of a penalty must not be negative.",
            "[0, inf)",
            "a number >= 0, such as 1e-3",
        )
        one_of(norm, "`norm` of a penalty must be 1 or 2.", (1, 2))
        self.strength = float(strength)
        self.norm = norm
        self.pattern = PATTERNS.get(pattern)
        if isinstance(self.pattern, NOfM):
            raise InvalidArgumentError(
                "A penalty cannot have the pattern NOfM, whose weights do not go "
                "together.",
                expected="'unstructured', a Block or a Channel",
            )
        self.filters = filters
        self._pulls: list[_Pull] = []

    def start(self, epoch: int) -> None:
        sites = select_sites(self.model, self.filters)
        sites = self.pattern.fitting(sites, asked_for=self.filters is not None)
        self._pulls = [_Pull(self, site) for site in sites]
        for pull in self._pulls:
            attach(pull.site.variable, pull)

    def stop(self) -> None:
        for pull in self._pulls:
            detach(pull.site.variable, pull)
        self._pulls = []


class _Pull:
    """The proximal operator on one kernel."""

    def __init__(self, penalty: PenalizeWeights, site: Site):
        self.penalty = penalty
        self.site = site

    def __call__(self, weights: Any) -> Any:
        rate = ops.cast(self.penalty.model.optimizer.learning_rate, "float32")
        pull = rate * self.penalty.strength
        values = ops.cast(weights, "float32")
        if self.penalty.norm == 2:
            return ops.cast(values / (1.0 + pull), weights.dtype)
        # The mean over a unit is the squared norm over its size.
        squares = self.penalty.pattern.reduce(ops.square(values), self.site.kernel)
        factors = ops.maximum(0.0, 1.0 - pull * ops.rsqrt(ops.maximum(squares, 1e-30)))
        factors = self._spread(factors)
        pulled = ops.where(factors > 0.0, values * factors, 0.0)  # never minus zero
        return ops.cast(pulled, weights.dtype)

    def _spread(self, factors: Any) -> Any:
        """Returns a factor per weight from one per unit."""
        shape = tuple(self.site.variable.shape)
        return self.penalty.pattern.expand(factors, shape, self.site.kernel)
