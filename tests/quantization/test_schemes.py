"""Schemes: fewer bits than eight, one scheme per layer, and files that keep them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress
from tfcompress import (
    InvalidArgumentError,
    UnsupportedLayerError,
    calibrate,
    finalize,
    quantize_aware,
    verify,
)
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.integers.storage import as_stored, largest_integers
from tfcompress.quantization.quantizers import (
    BinaryQuantizer,
    LearnedStepQuantizer,
    TernaryQuantizer,
    UniformQuantizer,
)
from tfcompress.quantization.scheme import QuantizationScheme

VALUES = {"w8a8": 255, "w8a16": 255, "w4a8": 15, "w2a8": 3, "w1a8": 2}


def network():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(16, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(3, activation="relu", name="depthwise"),
            layers.Conv2D(11, 1, activation="relu", name="point"),
            layers.Flatten(name="flatten"),
            layers.Dense(10, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((48, 12, 12, 3), dtype="float32")


def trained(scheme, images):
    keras.utils.set_random_seed(0)
    aware = quantize_aware(network(), scheme)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile(keras.optimizers.Adam(0.01), loss)
    aware.fit(images, np.arange(len(images)) % 10, epochs=2, verbose=0)
    return aware


def most_values(kernel):
    """Returns how many values the channel with the most of them has."""
    return max(
        len(np.unique(channel)) for channel in kernel.reshape(-1, kernel.shape[-1]).T
    )


@pytest.mark.sweep(2)
@pytest.mark.export
def test_sums_of_16_bits_lose_nothing_behind_kernels_of_each_kind(tmp_path, rng):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SeparableConv2D(8, 3, activation="relu"),
            layers.DepthwiseConv2D(3),
            layers.Conv2DTranspose(4, 3),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(6),
        ]
    )
    inputs = rng.normal(size=(32, 8, 8, 3)).astype("float32")
    final = finalize(tfcompress.calibrate(model, inputs, "w8a16"))
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    found = verify(artifact, final, inputs)
    # Five steps where multipliers keep more than 15 bits.
    assert found.max_error_steps <= 1.001


@pytest.mark.export
@pytest.mark.parametrize("scheme", sorted(VALUES))
def test_the_file_computes_what_the_graph_does(scheme, images, tmp_path):
    aware = trained(scheme, images)
    final = finalize(aware)
    assert most_values(final.get_layer("head").kernel.numpy()) <= VALUES[scheme]
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    found = verify(artifact, final, images)
    assert found.max_error_steps <= 1.001
    assert artifact.integer_coverage == 1.0
    wide = {c.name: c.activations for c in artifact.operators}["CONV_2D"]
    assert wide == (("int16",) if scheme == "w8a16" else ("int8",))
    stored = {
        tuple(tensor.info.shape): tensor.info.dtype
        for tensor, _ in TFLiteFile.open(artifact.path).weights()
    }
    half_bytes = not scheme.startswith("w8")
    assert stored[10, 704] == ("int4" if half_bytes else "int8")


@pytest.mark.export
def test_half_bytes_are_a_choice(images, tmp_path):
    final = finalize(trained("w4a8", images))
    sizes, outputs = {}, {}
    for choice in ("none", "exact", "all"):
        artifact = tfcompress.export(final, tmp_path / f"{choice}.tflite", int4=choice)
        sizes[choice] = artifact.path.stat().st_size
        outputs[choice] = verify(artifact, final, images).max_error_steps
    assert sizes["all"] < sizes["exact"] < 0.75 * sizes["none"]
    assert outputs["none"] <= 1.001
    assert outputs["all"] <= 2.001
    with pytest.raises(InvalidArgumentError, match=r"(?s)Unknown `int4`.*'some'"):
        tfcompress.export(final, tmp_path / "model.tflite", int4="some")


def test_a_scheme_for_each_layer(images):
    aware = quantize_aware(
        network(), {"^(conv|head)$": "w8a8", "depth": "w2a8", "": "w4a8"}
    )
    found = {
        layer.name: type(layer.quantizer)
        for layer in aware.layers
        if hasattr(layer, "quantizer")
    }
    assert found == {
        "conv": UniformQuantizer,
        "depthwise": TernaryQuantizer,
        "point": LearnedStepQuantizer,
        "head": UniformQuantizer,
    }


def test_layers_that_no_expression_names_get_eight_bits():
    aware = quantize_aware(network(), {"point": QuantizationScheme(BinaryQuantizer())})
    assert isinstance(aware.get_layer("point").quantizer, BinaryQuantizer)
    assert aware.get_layer("conv").quantizer.num_bits == 8


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("w5a8", "one of 'w8a8', 'w8a16', 'w4a8', 'w2a8', 'w1a8'"),
        ({"conv": "w8a8", "": "w8a16"}, r"8 bits \(moving_average\), 16 bits"),
        ({"conv": "int4"}, "Unknown quantization scheme.*'int4'"),
        ({"(": "w4a8"}, "no valid regular expression"),
        ({"block7": "w4a8"}, "names layers that the model does not have.*conv"),
    ],
)
def test_bad_schemes(scheme, message):
    with pytest.raises(InvalidArgumentError, match=f"(?s){message}"):
        quantize_aware(network(), scheme)


def test_sixteen_bits_are_finer_than_eight(images):
    model = network()
    expected = model(images).numpy()
    off = {
        scheme: np.abs(calibrate(model, images, scheme)(images) - expected).max()
        for scheme in ("w8a8", "w8a16")
    }
    assert off["w8a16"] < 0.5 * off["w8a8"]


def test_sixteen_bits_have_no_softmax():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation="softmax", name="probs")]
    )
    with pytest.raises(UnsupportedLayerError, match=r"(?s)probs .Activation.*'w8a8'"):
        quantize_aware(model, "w8a16")


def test_the_learned_step_learns(images):
    keras.utils.set_random_seed(0)
    aware = quantize_aware(network(), "w4a8")
    layer = aware.get_layer("head")
    (step,) = [w for w in layer.trainable_weights if "step" in w.path]
    kernel = layer.layer.kernel.numpy()
    first = 2 * np.abs(kernel).mean(axis=0, keepdims=True) / np.sqrt(7)
    np.testing.assert_allclose(step.numpy(), first, rtol=1e-5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile("adam", loss)
    aware.fit(images, np.arange(len(images)) % 10, epochs=1, verbose=0)
    assert np.all(step.numpy() != first)


def test_the_gradient_of_the_step_is_the_papers():
    tf = pytest.importorskip("tensorflow")
    weights = np.array([[0.3], [-0.52], [4.0], [-9.0]], "float32")
    step = tf.Variable([[0.2]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(LearnedStepQuantizer(3)(weights, (0,), step=step))
    ratio = weights / 0.2
    inside = np.round(ratio) - ratio
    each = np.where(ratio > 3, 3, np.where(ratio < -3, -3, inside))
    expected = each.sum() / np.sqrt(4 * 3)
    found = tape.gradient(total, step).numpy().item()
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("scheme", ["w4a8", "w2a8"])
def test_a_saved_model_goes_on(scheme, images, tmp_path):
    aware = trained(scheme, images)
    aware.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), aware(images))


def test_largest_integers_find_the_grid():
    rng = np.random.default_rng(0)
    whole = rng.integers(-7, 8, (16, 4)) * [0.1, 3.0, 0.02, 1.0]
    whole[0] = [0.7, 21.0, 0.14, 7.0]
    assert largest_integers(whole, (1,)).ravel().tolist() == [7] * 4
    free = rng.normal(size=(16, 4))
    assert largest_integers(free, (1,)).ravel().tolist() == [127] * 4
    mixed = np.where([True, True, False, True], whole, free)
    assert largest_integers(mixed, (1,)).ravel().tolist() == [127] * 4
    few = whole[:2]
    assert largest_integers(few, (1,)).ravel().tolist() == [127] * 4


def test_what_is_stored_is_stored_again_unchanged():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 8, 5)).astype("float32")
    stored, step = as_stored(kernel, (3,))
    assert np.abs(stored - kernel).max() <= 0.5 * step.max() * 1.001
    np.testing.assert_array_equal(as_stored(stored, (3,))[0], stored)


def test_learned_ranges_move_with_the_loss_and_freeze(images):
    """PACT: the gradient of a bound is that of all values cut off at it."""
    layer = FakeQuantize(learned=True, nonnegative=True)
    layer.build((None, 2))
    layer.ranges.assign([[0.0, 1.0]])
    layer.batches.assign([100.0])
    values = tf.constant([[0.5, 2.0], [3.0, 0.25]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(values, training=True) * [[1.0, 2.0], [4.0, 8.0]])
    gradient = tape.gradient(loss, layer.ranges.value)
    np.testing.assert_allclose(gradient, [[0.0, 2.0 + 4.0]], atol=1e-6)

    keras.utils.set_random_seed(0)
    model = quantize_aware(network(), QuantizationScheme(ranges="learned"))
    moving = [v for v in model.trainable_variables if v.name == "ranges"]
    assert len(moving) >= 4
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    labels = np.arange(len(images)) % 10
    model.fit(images, labels, batch_size=4, verbose=0)
    learned = [np.array(v) for v in moving]
    model.fit(images, labels, batch_size=4, verbose=0)
    assert all((a != np.array(v)).any() for a, v in zip(learned, moving, strict=True))
    learned = [np.array(v) for v in moving]
    freeze = tfcompress.FreezeQuantization(ranges_at_epoch=0)
    model.fit(images, labels, batch_size=4, verbose=0, callbacks=[freeze])
    for before, variable in zip(learned, moving, strict=True):
        np.testing.assert_array_equal(before, variable)


@pytest.mark.export
@pytest.mark.parametrize("rank", [1, 2])
def test_transposed_convolutions_of_4_bits_keep_their_values(rank, tmp_path, rng):
    # The converter gave their kernels a scale on which the values do not lie.
    shape = (8, 8, 3)[2 - rank :]
    kind = keras.layers.Conv1DTranspose if rank == 1 else keras.layers.Conv2DTranspose
    inputs = keras.Input(shape, name="x")
    x = keras.layers.Flatten()(kind(4, 3, 2)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    data = rng.random((32, *shape)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data, "w4a8"))
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    difference = tfcompress.load(artifact.path)(data) - final.predict(data, verbose=0)
    assert np.abs(difference).max() < 1e-3 * artifact.outputs[0].step
