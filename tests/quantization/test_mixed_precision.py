"""Mixed precision: bits go first where the outputs notice least."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import InvalidArgumentError, calibrate, mixed_precision
from tfcompress.quantization.quantizers import LearnedStepQuantizer, UniformQuantizer


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((8, 8, 16)), layers.SeparableConv2D(16, 3, name="sep")],
        name="block",
    )
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv"),
            inner,
            layers.Flatten(name="flatten"),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.Dense(4, name="head"),
        ]
    )
    # One large weight per output makes four bits hopeless for this layer.
    kernel = model.get_layer("hidden").kernel
    values = kernel.numpy()
    values[0] *= 60
    kernel.assign(values)
    return model


@pytest.fixture(scope="module")
def images(digits):
    return digits[0][:64]


def test_layers_give_up_bits_in_the_order_of_sensitivity(model, images):
    everything = mixed_precision(model, images, max_bytes=10**6)
    assert list(everything) == ["^conv$", "^block/sep$", "^hidden$", "^head$"]
    assert set(everything.values()) == {"w8a8"}
    size = sum(np.prod(v.shape) * (1 if len(v.shape) > 1 else 4) for v in model.weights)
    found = mixed_precision(model, images, max_bytes=int(size) - 150)
    assert found["^hidden$"] == "w8a8"
    assert "w4a8" in found.values()


def test_the_result_is_a_scheme(model, images):
    scheme = {"^conv$": "w8a8", "^block/sep$": "w4a8", "^hidden$": "w8a8"}
    aware = calibrate(model, images, scheme)
    kinds = {
        layer.name: type(layer.quantizer)
        for layer in aware.layers
        if hasattr(layer, "quantizer")
    }
    parts = {kind for name, kind in kinds.items() if name.startswith("sep")}
    assert len(kinds) == 5
    assert parts == {LearnedStepQuantizer}
    assert kinds["head"] is kinds["conv"] is UniformQuantizer


def test_progress_ends_at_the_last_layer(model, images, capsys):
    mixed_precision(model, images, max_bytes=10**6, verbose=1)
    assert "4/4" in capsys.readouterr().out


def test_too_small_a_size_names_the_least(model, images):
    with pytest.raises(InvalidArgumentError, match=r"(?s)max_bytes=100.*at least"):
        mixed_precision(model, images, max_bytes=100)
