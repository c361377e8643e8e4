"""SeedEachEpoch: random layers draw what the epoch says, also in a resumed run."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.core.arguments import integer
from tfcompress.core.select import walk

# Odd, so that epochs begin far from each other in the sequence of draws (Knuth).
_APART = 2654435761


class SeedEachEpoch(keras.callbacks.Callback):
    """Makes what Dropout and other random layers draw a function of the epoch.

    When to use: in a fit that may be interrupted and resumed, if it is to end with the
    very weights of an unbroken one. Keras saves no states of random generators, neither
    in `BackupAndRestore` nor in `.keras` files: without this, a resumed run draws again
    what its first epoch drew.

    Source: Keras draws from a seed and a counter (Salmon et al., "Parallel random
    numbers: as easy as 1, 2, 3", 2011). At the beginning of each epoch the n-th
    generator of the model gets the seed `seed + n` and a counter that depends on the
    epoch alone.

    Args:
        seed: an int >= 0.

    Raises:
        InvalidArgumentError: if `seed` is no such number.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential(
    ...     [keras.Input((9,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    ... )
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> fit = {"epochs": 2, "verbose": 0, "callbacks": [SeedEachEpoch()]}
    >>> one, two = (
    ...     model.fit(np.ones((8, 9)), np.ones((8, 1)), **fit).history["loss"]
    ...     for _ in range(2)
    ... )
    >>> one == two, one[0] == one[1]
    (True, False)
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        self.seed = integer(seed, "`seed` of SeedEachEpoch must be an int >= 0.", low=0)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        for position, generator in enumerate(_generators(self.model)):
            counter = (epoch + 1) * _APART % 2**31
            generator.state.assign([(self.seed + position) % 2**31, counter])


def _generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """Returns the random generators of all layers, in the order of the layers."""
    found: dict[int, Any] = {}
    for _, layer in walk(model):
        for value in vars(layer).values():
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, keras.random.SeedGenerator):
                    found.setdefault(id(one), one)
    return list(found.values())
