"""The models that every target runs, and the samples they run on."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

import tfcompress

L = keras.layers
SAMPLES = 24


def residual():
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(image)
    skip = x = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(x))
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = L.BatchNormalization(name="norm_2")(x)
    x = L.ReLU(name="relu_2")(L.Add(name="add")([x, skip]))
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Dense(5, name="logits")(x), name="residual")


def depthwise():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            L.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem"),
            L.BatchNormalization(name="norm"),
            L.ReLU(6.0, name="relu"),
            L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depth"),
            L.BatchNormalization(name="norm_2"),
            L.ReLU(6.0, name="relu_2"),
            L.Conv2D(12, 1, activation="relu", name="point"),
            L.Flatten(name="flat"),
            L.Dense(5, name="logits"),
        ],
        name="depthwise",
    )


def two_inputs():
    # The order of the inputs is not that of the alphabet.
    query = keras.Input((8,), name="query")
    context = keras.Input((4,), name="context")
    x = L.Concatenate(name="join")([query, context])
    x = L.Dense(16, activation="relu", name="hidden")(x)
    outputs = {
        "scores": L.Dense(3, name="scores")(x),
        "gate": L.Dense(2, activation="sigmoid", name="gate")(x),
    }
    return keras.Model([query, context], outputs, name="two_inputs")


def recurrent():
    steps = keras.Input((6, 4), name="steps")
    x = L.LSTM(8, name="lstm")(steps)
    return keras.Model(steps, L.Dense(3, name="logits")(x), name="recurrent")


def attention():
    tokens = keras.Input((6, 8), name="tokens")
    x = L.MultiHeadAttention(2, 4, name="attend")(tokens, tokens)
    x = L.Add(name="add")([x, tokens])
    x = L.Dense(8, activation="relu", name="feed")(x)
    x = L.Flatten(name="flat")(x)
    return keras.Model(tokens, L.Dense(3, name="logits")(x), name="attention")


BUILDERS: dict[str, Callable[[], keras.Model]] = {
    build.__name__: build
    for build in (residual, depthwise, two_inputs, recurrent, attention)
}
NAMES = tuple(BUILDERS)


@dataclasses.dataclass(frozen=True)
class SameModel:
    """One model of the table: float, in integers, and samples for both."""

    name: str
    plain: keras.Model
    quantized: keras.Model
    samples: dict[str, np.ndarray]


def build(name):
    """Builds a model with settled weights, and calibrates and finalizes it."""
    keras.utils.set_random_seed(NAMES.index(name) + 1)
    model = BUILDERS[name]()
    rng = np.random.default_rng(0)
    samples = {
        tensor.name: rng.normal(size=(SAMPLES, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    }
    for variable in model.variables:
        if "moving_mean" in variable.path or "beta" in variable.path:
            variable.assign(rng.normal(0, 0.3, variable.shape))
        elif "moving_variance" in variable.path or "gamma" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    data = list(samples.values())
    data = data if len(data) > 1 else data[0]
    quantized = tfcompress.finalize(tfcompress.calibrate(model, data, "w8a8"))
    return SameModel(name, model, quantized, samples)
