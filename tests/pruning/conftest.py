"""Data and a `fit` that prunes a small model in a few milliseconds a step."""

import numpy as np
import pytest

import tfcompress
from tests.pruning.pruned import STEPS, compiled, schedule


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(STEPS * 8, 12)).astype("float32")
    return x, generator.integers(0, 3, STEPS * 8)


@pytest.fixture
def fit(data):
    """Runs `fit` with PruneWeights (or the given callbacks); returns the model."""

    def run(model, *callbacks, epochs=2, **kwargs):
        if not model.compiled:
            compiled(model)
        callbacks = callbacks or (tfcompress.PruneWeights(schedule(), scope="layer"),)
        kwargs = {"batch_size": 8, "verbose": 0, **kwargs}
        model.fit(*data, epochs=epochs, callbacks=list(callbacks), **kwargs)
        return model

    return run
