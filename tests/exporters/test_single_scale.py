"""Kernels that were rounded with one scale keep it, and their few integers."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress.core.errors import CompressionWarning
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

pytestmark = pytest.mark.export
CLUSTERS = 6


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2), name="image"),
            layers.Conv2D(6, 3, activation="relu", name="conv"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(12, activation="relu", name="dense"),
            layers.Dense(5, name="logits"),
        ]
    )


def exported(folder, granularity, *callbacks):
    keras.utils.set_random_seed(3)
    scheme = tfcompress.QuantizationScheme(tfcompress.UniformQuantizer(8, granularity))
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 8, 8, 2)).astype("float32")
    if callbacks:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = tfcompress.quantize_aware(network(), scheme)
        model.compile("adam", loss)
        y = generator.integers(0, 5, 64)
        model.fit(x, y, epochs=3, verbose=0, callbacks=list(callbacks))
    else:
        model = tfcompress.calibrate(network(), x, scheme)
    final = tfcompress.finalize(model)
    artifact = tfcompress.export(final, folder / f"{granularity}.tflite")
    check = tfcompress.verify(artifact, final, x, min_integer_coverage=1.0)
    kernels = {
        tensor.info.shape: (len(np.unique(values)), len(tensor.zero_points))
        for tensor, values in TFLiteFile.open(artifact.path).weights()
    }
    return check, kernels


def test_a_clustered_int8_file_has_so_many_integers(tmp_path):
    share = tfcompress.ClusterWeights(CLUSTERS)
    with pytest.warns(CompressionWarning, match="scales every channel: depthwise"):
        check, kernels = exported(tmp_path, "tensor", share)
    # The file computes what the finalized model does, to the last bit.
    assert check.max_abs_error == 0
    conv, dense, logits = (6, 3, 3, 2), (12, 96), (5, 12)
    for shape in (conv, dense, logits):
        count, scales = kernels[shape]
        assert scales == 1
        assert count <= CLUSTERS
    # Batch normalization is folded into the depthwise kernel: a scale per channel.
    assert kernels[1, 3, 3, 6][1] == 6


def test_scales_per_channel_stay(tmp_path):
    check, kernels = exported(tmp_path, "channel")
    assert check.passed
    assert {shape: scales for shape, (_, scales) in kernels.items()} == {
        (6, 3, 3, 2): 6,
        (1, 3, 3, 6): 6,
        (12, 96): 12,
        (5, 12): 5,
    }


def test_equal_bytes_of_different_kernels_are_not_one_kernel(tmp_path):
    """The converter gives both the same buffer; one of them is stored in 15 values."""
    inputs = keras.Input((4, 4, 8), name="image")
    mean = layers.AveragePooling2D(2, name="mean")(inputs)  # 2 * 2 * 8 times 127
    wide = layers.Dense(32, name="wide")(layers.Flatten(name="flatten")(mean))
    norm = layers.BatchNormalization(name="norm")  # 1 * 1 * 32 times 127
    outputs = norm(layers.Reshape((1, 1, 32), name="pixel")(wide))
    x = np.random.default_rng(0).normal(size=(32, 4, 4, 8)).astype("float32")
    model = keras.Model(inputs, outputs)
    final = tfcompress.finalize(tfcompress.calibrate(model, x, "w8a8"))
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    assert tfcompress.verify(artifact, final, x).max_error_steps <= 1.001


def test_a_transposed_kernel_keeps_its_integers_too(tmp_path, rng):
    up = layers.Conv2DTranspose(16, 2, strides=2, name="up")
    model = keras.Sequential([keras.Input((6, 6, 8), name="x"), up])
    kernel, bias = up.get_weights()
    values = np.linspace(-0.4, 0.5, CLUSTERS)
    up.set_weights([rng.choice(values, kernel.shape), rng.normal(size=bias.shape)])
    x = rng.normal(size=(64, 6, 6, 8)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, x))
    artifact = tfcompress.export(final, tmp_path / "up.tflite")
    ((_, stored),) = TFLiteFile.open(artifact.path).weights()
    assert len(np.unique(stored)) == CLUSTERS
    tfcompress.verify(artifact, final, x).raise_if_failed()
