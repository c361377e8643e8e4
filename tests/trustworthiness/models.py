"""Models whose every answer a test can choose."""

import keras
import numpy as np

L = keras.layers


def table(logits, activation=None, name="original"):
    """Returns a model that gives sample `i`, row `i` of an identity, row `i` here."""
    logits = np.asarray(logits, "float32")
    model = keras.Sequential(
        [
            keras.Input((len(logits),), name="x"),
            L.Dense(logits.shape[1], activation=activation, use_bias=False),
        ],
        name=name,
    )
    model.layers[0].set_weights([logits])
    return model


def samples(count):
    """Returns the inputs of a `table` with so many rows."""
    return np.eye(count, dtype="float32")


def answering(answers, classes, sure=4.0):
    """Returns logits that give these answers."""
    return sure * np.eye(classes)[np.asarray(answers)]
