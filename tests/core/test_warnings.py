"""Warnings point at the line of the user's that they are about."""

import linecache

import keras
import numpy as np
import pytest

from tests.architecture.sources import package_sources
from tfcompress import CompressionWarning, PruneWeights, shrink
from tfcompress.core.errors import warn

X = np.zeros((8, 4), "float32")


def model():
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")
    made = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2)])
    made.compile("sgd", "mse")
    return made


def line_of(recorded):
    mine = [w for w in recorded if w.category is CompressionWarning]
    places = {(warning.filename, warning.lineno) for warning in mine}
    ((name, number),) = places
    return name, linecache.getline(name, number).strip()


def test_a_callback_that_keras_calls():
    whole, callbacks = model(), [PruneWeights(0.5, pattern="channel")]
    with pytest.warns(CompressionWarning, match="round_to=8|outputs") as recorded:
        whole.fit(X, X[:, :2], epochs=3, callbacks=callbacks, verbose=0)
    line = "whole.fit(X, X[:, :2], epochs=3, callbacks=callbacks, verbose=0)"
    assert line_of(recorded) == (__file__, line)


class Doubled(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def test_a_function_of_the_package():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(16, activation="relu")(inputs)
    whole = Doubled(inputs, keras.layers.Dense(2)(x))
    with pytest.warns(CompressionWarning, match="train_step") as recorded:
        shrink(whole, 0.5)
    assert line_of(recorded) == (__file__, "shrink(whole, 0.5)")


def test_the_caller_where_nobody_is_between():
    with pytest.warns(CompressionWarning, match="^so$") as recorded:
        warn("so")
    assert line_of(recorded) == (__file__, 'warn("so")')


def test_all_of_the_package_warns_so():
    files = {s.path for s in package_sources() if "warnings.warn(" in s.text}
    assert files == {"tfcompress/core/errors.py"}
