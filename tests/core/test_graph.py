"""Layers that need care when they are copied."""

import keras
import numpy as np
from keras import layers

from tfcompress.core.graph import build, trace

FACTOR = 3.0


def test_a_python_lambda_is_copied_with_what_it_refers_to():
    offset = 1.0
    inputs = keras.Input((2,))
    x = layers.Lambda(lambda x: x * FACTOR + offset, name="scale")(inputs)
    copy = build(trace(keras.Model(inputs, layers.Dense(1, name="d")(x))))
    x = copy.get_layer("scale")(np.ones((1, 2), "float32"))
    np.testing.assert_array_equal(x, [[4.0, 4.0]])
    assert copy(np.ones((3, 2))).shape == (3, 1)
