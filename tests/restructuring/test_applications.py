"""Whole networks: half the MACs, exports, exact removal. See the benchmark's table."""

import keras
import pytest
from keras import layers

from tests.scripts import load_script

script = load_script("benchmarks/shrink_applications.py")


def small_resnet():
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for width, strides in ((32, 1), (64, 2)):
        y = layers.BatchNormalization()(x)
        y = layers.ReLU()(y)
        y = layers.Conv2D(width, 3, strides=strides, padding="same")(y)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(width, 3, padding="same")(y)
        x = layers.Conv2D(width, 1, strides=strides)(x)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def small_densenet():
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs)
    for block in range(2):
        for _ in range(2):
            y = layers.ReLU()(layers.BatchNormalization()(x))
            y = layers.Conv2D(32, 1, use_bias=False)(y)
            y = layers.ReLU()(layers.BatchNormalization()(y))
            y = layers.Conv2D(8, 3, padding="same", use_bias=False)(y)
            x = layers.Concatenate()([x, y])
        if block == 0:
            x = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.AveragePooling2D(2)(layers.Conv2D(24, 1)(x))
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def mobilenet():
    return keras.applications.MobileNetV2(
        weights=None,
        input_shape=(32, 32, 3),
        alpha=0.35,
        classes=10,
        classifier_activation=None,
    )


SMALL = {"mobilenet": mobilenet, "resnet": small_resnet, "densenet": small_densenet}


@pytest.mark.sweep(1)
@pytest.mark.export
@pytest.mark.parametrize("name", sorted(SMALL))
def test_half_the_macs(name, tmp_path):
    found = script.halve(script.randomized(SMALL[name]()), tmp_path)
    assert found["macs_share"] == pytest.approx(0.5, rel=0.05)
    assert found["output_shape_kept"]
    assert 0 < found["loss"] < 100
    assert found["tflite"] < 1e-4
    assert found["saved_model"] < 1e-4


@pytest.mark.parametrize("name", sorted(SMALL))
def test_zeroed_channels_go_exactly(name):
    found = script.remove_zeros(script.randomized(SMALL[name]()))
    assert found["removed_macs_share"] < 0.4
    assert found["difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", script.FAMILIES)
def test_every_family(name):
    found = script.measure(name)
    assert found["macs_share"] == pytest.approx(0.5, rel=0.05)
    assert found["output_shape_kept"]
    assert found["difference"] < 1e-5
    assert max(found["tflite"], found["saved_model"]) < 1e-3
