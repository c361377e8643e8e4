"""Small models and their artifacts, made once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.exporters import same_models
from tfcompress.exporters import export

L = keras.layers


@keras.saving.register_keras_serializable("tests")
class FakeQuantize(L.Layer):
    """Rounds to 8 bits in a fixed range, as a finalized model does."""

    def __init__(self, low, high, **kwargs):
        super().__init__(**kwargs)
        self.low, self.high = low, high

    def call(self, x):
        return tf.quantization.fake_quant_with_min_max_vars(x, self.low, self.high)


def on_grid(layer):
    """Puts a kernel on its symmetric 8-bit grid, per output channel."""
    weights = layer.get_weights()
    depthwise = isinstance(layer, L.DepthwiseConv2D)
    axes = (0, 1) if depthwise else tuple(range(weights[0].ndim - 1))
    scale = np.abs(weights[0]).max(axes, keepdims=True) / 127
    weights[0] = (np.round(weights[0] / scale) * scale).astype("float32")
    layer.set_weights(weights)


def make_quantized():
    keras.utils.set_random_seed(1)
    image = keras.Input((12, 12, 3), name="image")
    conv = L.Conv2D(8, 3, padding="same", use_bias=False)
    depthwise = L.DepthwiseConv2D(3, padding="same")
    dense = L.Dense(10, name="logits")
    x = FakeQuantize(-3.0, 3.0)(image)
    x = L.ReLU()(L.BatchNormalization()(conv(x)))
    x = FakeQuantize(0.0, 4.0)(x)
    x = L.MaxPooling2D()(FakeQuantize(-3.0, 3.0)(depthwise(x)))
    x = FakeQuantize(-4.0, 4.0, name="logits_quantizer")(dense(L.Flatten()(x)))
    model = keras.Model(image, x, name="quantized")
    for layer in (conv, depthwise, dense):
        on_grid(layer)
    return model


def make_float():
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [keras.Input((8,)), L.Dense(16, activation="relu"), L.Dense(4)], name="plain"
    )


def make_two_headed():
    """Two inputs whose order is not alphabetical, outputs as a list."""
    keras.utils.set_random_seed(3)
    query = keras.Input((8,), name="query")
    context = keras.Input((4,), name="context")
    hidden = L.Dense(4)(query) + 2.0 * context
    return keras.Model([query, context], [L.Dense(3)(hidden), L.Dense(2)(hidden)])


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Where the artifacts that many modules read are."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for each module: names in two modules never meet."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def quantized():
    return make_quantized()


@pytest.fixture(scope="session")
def plain():
    return make_float()


@pytest.fixture(scope="session")
def two_headed():
    return make_two_headed()


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(0).normal(size=(50, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="session")
def quantized_file(quantized, shared):
    return export(quantized, shared / "quantized.tflite")


@pytest.fixture(scope="session")
def plain_file(plain, shared):
    return export(plain, shared / "plain.tflite")


@pytest.fixture(scope="session")
def quantized_version(quantized, shared):
    return export(quantized, shared / "quantized" / "1", format="saved_model")


@pytest.fixture(scope="module")
def models():
    """Returns the models of `same_models` by name, each built once."""
    built = {}

    def get(name):
        if name not in built:
            built[name] = same_models.build(name)
        return built[name]

    return get
