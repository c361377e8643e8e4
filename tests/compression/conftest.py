"""One small trained classifier, and one search over it, for all tests of the room."""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.compression.task import Task

COUNT = 600


def make_data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(COUNT, 8)).astype("float32")
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype("int64")
    return x, y


def make_model(compiled=True, **how):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((8,), name="features"),
            keras.layers.Dense(48, activation="relu", name="first"),
            keras.layers.Dense(32, activation="relu", name="second"),
            keras.layers.Dense(2, name="logits"),
        ],
        name="small",
    )
    if compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        how = {"metrics": ["accuracy"], **how}
        model.compile(keras.optimizers.Adam(5e-3), loss, **how)
    return model


@pytest.fixture(scope="session")
def data():
    x, y = make_data()
    return (x[:500], y[:500]), (x[500:], y[500:])


@pytest.fixture(scope="session")
def trained(data):
    model = make_model()
    model.fit(*data[0], epochs=8, batch_size=64, verbose=0)
    return model


@pytest.fixture
def task(trained, data):
    return Task(trained, *data, batch_size=64)


@pytest.fixture(scope="session")
def search(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return tfcompress.Search(
        trials=2, epochs=6, directory=str(folder), batch_size=64, verbose=0
    )


@pytest.fixture(scope="session")
def budget():
    return tfcompress.Budget(max_packed_bytes="40%", max_metric_drop=0.2)


@pytest.fixture(scope="session")
def result(trained, data, search, budget):
    return tfcompress.compress(trained, *data, budget, search=search)
