"""Small networks of the kinds that people ship: integers only, equal to the graph."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.quantization.test_transformers import shipped

L = keras.layers

pytestmark = pytest.mark.export


def audio_net():
    """Keywords in sound: strided 1D convolutions."""
    x = keras.Input((64, 1), name="sound")
    y = L.Conv1D(8, 9, strides=4, padding="same", use_bias=False)(x)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.SeparableConv1D(12, 3, padding="same")(y)
    y = L.MaxPooling1D(2)(L.LeakyReLU(0.1)(y))
    y = L.DepthwiseConv1D(3, padding="same", activation="hard_silu")(y)
    return keras.Model(x, L.Dense(4, name="word")(L.GlobalAveragePooling1D()(y)))


def unet():
    """Segmentation: down, up by a transposed convolution, and across."""

    def block(y, filters):
        y = L.Conv2D(filters, 3, padding="same", use_bias=False)(y)
        return L.ReLU()(L.BatchNormalization()(y))

    x = keras.Input((16, 16, 2), name="image")
    across = block(x, 4)
    y = block(L.MaxPooling2D(2)(across), 8)
    y = L.Conv2DTranspose(4, 2, strides=2, padding="same")(y)
    y = block(L.Concatenate()([across, y]), 4)
    return keras.Model(x, L.Conv2D(3, 1, name="mask")(y))


def autoencoder():
    x = keras.Input((16, 16, 1), name="image")
    y = L.Conv2D(6, 3, strides=2, padding="same", activation="elu")(x)
    y = L.Dense(5, activation="tanh", name="code")(L.Flatten()(y))
    y = L.Reshape((8, 8, 2))(L.Dense(128, activation="gelu")(y))
    y = L.UpSampling2D(2)(y)
    return keras.Model(
        x, L.Conv2D(1, 3, padding="same", activation="sigmoid", name="again")(y)
    )


@pytest.mark.sweep(2)
@pytest.mark.parametrize("build", [audio_net, unet, autoencoder])
def test_file_equals_finalized_model(build, tmp_path):
    keras.utils.set_random_seed(1)
    model = build()
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(32, *model.input_shape[1:])).astype("float32")
    artifact, _, result = shipped(model, samples, tmp_path)
    assert artifact.integer_coverage == 1.0
    assert result.max_error_steps <= 1.001


def test_nested_models_may_have_layers_of_the_same_name():
    def tower(name):
        x = keras.Input((4,))
        return keras.Model(x, L.Dense(3, name="dense")(x), name=name)

    x = keras.Input((4,), name="x")
    model = keras.Model(x, L.Add()([tower("left")(x), tower("right")(x)]))
    quantized = tfcompress.quantize_aware(model)
    names = [layer.name for layer in quantized.layers]
    assert {"dense", "right_dense"} <= set(names)
    assert len(quantized.trainable_variables) == 4
