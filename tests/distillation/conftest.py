"""Small teachers, students and data with which a step takes milliseconds."""

import keras
import numpy as np
import pytest

CLASSES = 3


def dense_model(width, seed=0, name=None, classes=CLASSES, **kwargs):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(width, activation="relu", name="hidden", **kwargs),
            keras.layers.Dense(classes, name="logits"),
        ],
        name=name,
    )


@pytest.fixture
def teacher():
    return dense_model(8, seed=1, name="teacher")


@pytest.fixture
def student():
    return dense_model(6, seed=2, name="student")


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 4)).astype("float32")
    return x, generator.integers(0, CLASSES, 32)


@pytest.fixture
def supervised():
    """The loss the students are compiled with."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def _float32_again():
    yield
    keras.config.set_dtype_policy("float32")
