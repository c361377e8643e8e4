"""Small graphs that random models brought up: the file is the finalized model."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress
from tfcompress.core.errors import CompressionWarning, ExportError
from tfcompress.quantization.integers.resize import IntegerResize

pytestmark = [
    pytest.mark.export,
    # What is always zero is told, and is what some of these models compute.
    pytest.mark.filterwarnings("ignore:Always zero on the calibration data"),
]
MATRIX = np.linspace(-1.3, 1.1, 24).reshape(6, 4).astype("float32")
ODD = {
    "product with a matrix": lambda x: ops.matmul(x, MATRIX),
    "matrix before": lambda x: ops.matmul(MATRIX[:5, :].T, x),
    "nothing": lambda x: x - x,
    "nothing of a layer": lambda x: layers.Subtract()([x, x]),
    "one channel": lambda x: layers.LayerNormalization()(layers.Dense(1)(x)),
    "linear activation": lambda x: layers.Activation("linear")(ops.sigmoid(x)),
}


def same(model, data, folder):
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    artifact = tfcompress.export(final, folder / "model.tflite")
    assert artifact.integer_coverage == 1.0
    difference = tfcompress.load(artifact.path)(data) - final.predict(data, verbose=0)
    assert np.abs(difference).max() < 0.001 * artifact.outputs[0].step
    return final


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "activation", ["softplus", "mish", "elu", "selu", "celu", "log_sigmoid"]
)
def test_what_reads_a_dense_layer_twice_reads_what_was_rounded(
    activation, tmp_path, rng
):
    # The converter computed the layer again for the part that is a ReLU.
    inputs = keras.Input((6,), name="x")
    model = keras.Model(inputs, layers.Dense(8, activation=activation)(inputs))
    same(model, rng.normal(size=(256, 6)).astype("float32"), tmp_path)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("form", ["as it is", "reshaped", "relu6", "einsum"])
def test_a_relu_beside_others_reads_what_was_rounded(form, tmp_path, rng):
    inputs = keras.Input((4, 6), name="x")
    layer = layers.EinsumDense("abc,cd->abd", (None, 8))
    hidden = (layer if form == "einsum" else layers.Dense(8))(inputs)
    seen = layers.Reshape((8, 4))(hidden) if form == "reshaped" else hidden
    bent = layers.ReLU(6.0 if form == "relu6" else None)(seen)
    joined = layers.Concatenate()([layers.Flatten()(bent), layers.Flatten()(hidden)])
    model = keras.Model(inputs, joined)
    same(model, rng.normal(size=(256, 4, 6)).astype("float32"), tmp_path)


TWICE = {
    "square of a convolution": lambda x: ops.square(layers.Conv1D(4, 2)(x)),
    "twice a convolution": lambda x: layers.Add()([layers.Conv1D(4, 2)(x)] * 2),
    "square of the larger of two": lambda x: ops.square(
        layers.DepthwiseConv1D(2, activation="leaky_relu")(x)
    ),
    "square of a mean": lambda x: ops.square(layers.AveragePooling1D(2, 1)(x)),
    "square of attention": lambda x: ops.square(layers.MultiHeadAttention(2, 3)(x, x)),
    "square of a reshaping": lambda x: ops.square(
        layers.Reshape((3, 2, 5))(layers.Dense(6)(x))
    ),
}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("form", TWICE)
def test_a_tensor_that_is_read_twice_by_one_operation(form, tmp_path, rng):
    # The converter refused its own reshaping behind the operation.
    inputs = keras.Input((5, 6), name="x")
    outputs = layers.Dense(3, name="last")(TWICE[form](inputs))
    model = keras.Model(inputs, outputs)
    same(model, rng.normal(size=(64, 5, 6)).astype("float32"), tmp_path)


FIRST = {"data_format": "channels_first"}
CHANNELS_FIRST = {
    "average": lambda: layers.AveragePooling2D(2, **FIRST),
    "average over the border": lambda: layers.AveragePooling2D(
        3, padding="same", **FIRST
    ),
    "bilinear": lambda: layers.UpSampling2D(2, interpolation="bilinear", **FIRST),
    "depthwise": lambda: layers.DepthwiseConv2D(3, activation="relu", **FIRST),
    "separable": lambda: layers.SeparableConv2D(5, 3, **FIRST),
    "largest": lambda: layers.MaxPooling2D(2, **FIRST),
    "mean": lambda: layers.GlobalAveragePooling2D(**FIRST),
}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("form", CHANNELS_FIRST)
def test_channels_that_come_first(form, tmp_path, rng):
    inputs = keras.Input((4, 8, 8), name="x")
    x = layers.GlobalMaxPooling2D(**FIRST, keepdims=True)(inputs) + inputs
    x = CHANNELS_FIRST[form]()(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(layers.Flatten()(x)))
    data = rng.normal(size=(32, 4, 8, 8)).astype("float32")
    final = same(model, data, tmp_path)
    eager = np.asarray(final(data))
    np.testing.assert_array_equal(eager, final.predict(data, verbose=0))


@pytest.mark.sweep(3)
@pytest.mark.parametrize("odd", ODD)
def test_files_are_equal(odd, tmp_path, rng):
    inputs = keras.Input((5, 6), name="x")
    model = keras.Model(inputs, layers.Dense(3, name="last")(ODD[odd](inputs)))
    same(model, rng.normal(size=(32, 5, 6)).astype("float32"), tmp_path)


def test_normalization_over_five_axes(tmp_path, rng):
    inputs = keras.Input((3, 2, 4, 5), name="x")
    x = layers.Dense(6, name="wide")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(layers.Flatten()(x)))
    data = rng.normal(size=(32, 3, 2, 4, 5)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    # The converter leaves some of its parts in float.
    with pytest.warns(CompressionWarning, match="% of the work: wide"):
        artifact = tfcompress.export(final, tmp_path / "model.tflite")
    difference = tfcompress.load(artifact.path)(data) - final.predict(data, verbose=0)
    assert np.abs(difference).max() < 1.001 * artifact.outputs[0].step


def test_dense_layers_with_a_relu_stay_what_they_are(tmp_path, rng):
    # Of equal widths: what stands for a ReLU alone must not stand for the layer.
    inputs = keras.Input((6,), name="x")
    x = layers.Dense(8, activation="relu")(inputs)
    x = layers.Dense(8, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(8, name="last")(x))
    data = rng.normal(size=(64, 6)).astype("float32")
    final = same(model, data, tmp_path)
    assert tfcompress.macs(final) == tfcompress.macs(model)
    wanted = model.predict(data, verbose=0)
    difference = final.predict(data, verbose=0) - wanted
    assert np.abs(difference).max() < 0.05 * np.abs(wanted).max()


def test_a_shared_attention_folds_its_scale_in_both_calls(tmp_path, rng):
    inputs = keras.Input((6, 4), name="x")
    attention = layers.MultiHeadAttention(1, 3, name="attention")
    seen = attention(inputs, inputs)
    model = keras.Model(inputs, attention(seen, inputs * 0.7))
    same(model, rng.normal(size=(64, 6, 4)).astype("float32"), tmp_path)


@pytest.mark.parametrize(
    "resize",
    [
        layers.Resizing(7, 5),
        layers.Resizing(2, 3),
        layers.UpSampling2D((2, 3), interpolation="bilinear"),
    ],
    ids=["larger", "smaller", "upsampling"],
)
def test_bilinear_resizing_is_equal(resize, tmp_path, rng):
    inputs = keras.Input((3, 4, 3), name="image")
    x = layers.Flatten()(resize(inputs))
    model = keras.Model(inputs, layers.Dense(4, name="last")(x))
    data = rng.normal(size=(32, 3, 4, 3)).astype("float32")
    final = same(model, data, tmp_path)
    assert any(isinstance(layer, IntegerResize) for layer in final.layers)
    final.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(data), final.predict(data))
    assert tfcompress.macs(final) == tfcompress.macs(model)


def test_operations_that_litert_lacks_are_named(tmp_path, rng):
    inputs = keras.Input((6,), name="x")
    bent = ops.erf(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(bent))
    with pytest.raises(
        ExportError, match=rf"Erf in '{bent._keras_history.operation.name}'"
    ):
        tfcompress.export(model, tmp_path / "model.tflite")
    diagnosis = tfcompress.doctor(model, "tflite", trial=False)
    assert not diagnosis.deployable
    assert diagnosis.findings[0].layer.startswith("erf")


def test_exact_gelu_is_no_such_operation():
    inputs = keras.Input((6,), name="x")
    x = ops.gelu(layers.Dense(4)(inputs), approximate=False)
    model = keras.Model(inputs, layers.Dense(2)(x))
    for scheme in (None, "w8a8"):
        assert tfcompress.doctor(model, "tflite", scheme, trial=False).deployable


@pytest.mark.sweep(2)
@pytest.mark.parametrize("slopes", [(-0.5, 1.0), (0.0, 0.05), (0.0, 0.0), (-3.0, -2.0)])
def test_slopes_of_prelu_are_those_of_the_file(slopes, tmp_path, rng):
    # Kernels store them in 8 bits with one scale, and round small products twice.
    inputs = keras.Input((4, 4, 3), name="x")
    draw = keras.initializers.RandomUniform(*slopes, seed=3)
    hidden = layers.PReLU(draw)(inputs)
    hidden = layers.Conv2D(4, 2)(hidden)
    outputs = layers.PReLU(draw, shared_axes=[1, 2])(hidden)
    model = keras.Model(inputs, outputs)
    same(model, rng.normal(size=(256, 4, 4, 3)).astype("float32"), tmp_path)


def _twice(inputs):
    conv, other = layers.Conv2D(4, 3), layers.Conv2D(4, 3)
    return ops.relu(conv(inputs)) + other(conv(inputs))[:, :1, :1]


def _three_activations(inputs):
    conv = layers.Conv2D(4, 3)
    bent = [layers.Activation(name)(conv(inputs)) for name in ("relu", "tanh", "relu")]
    return layers.Concatenate()(bent)


def _attention_twice(inputs):
    rows = layers.Reshape((8, 24))(inputs)
    attention = layers.MultiHeadAttention(2, 4)
    return attention(rows, rows) + attention(rows, rows)


def _lengths_and_products(inputs):
    first, second = (layers.Dense(6)(layers.Flatten()(inputs)) for _ in range(2))
    cosine = layers.Dot(1, normalize=True)([first, second])
    units = [layers.UnitNormalization()(one) for one in (first, second)]
    same = ops.sum(units[0] * units[1], -1, keepdims=True)
    return layers.Concatenate()([cosine, same])


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "function", [_twice, _three_activations, _attention_twice, _lengths_and_products]
)
def test_what_is_computed_twice_has_one_range(function, tmp_path, rng):
    # Converters compute it once, and then it has one of two ranges.
    inputs = keras.Input((8, 8, 3), name="x")
    model = keras.Model(inputs, function(inputs))
    same(model, rng.normal(size=(256, 8, 8, 3)).astype("float32"), tmp_path)


def _small_threshold(x):
    small = ops.clip(layers.Dense(8)(x), -0.7, 0.9) / 3.0
    return layers.Dense(3)(ops.where(small > 0.2, small**2, small))


def _two_compared(x):
    first, second = layers.Dense(8)(x) / 9.0, layers.Dense(8)(x) / 7.0
    return layers.Dense(3)(ops.where(first > second, first * second, second))


@pytest.mark.parametrize("function", [_small_threshold, _two_compared])
def test_small_numbers_are_compared_as_they_are(function, tmp_path, rng):
    # Integer kernels compare multiples of 1/256.
    inputs = keras.Input((6,), name="x")
    model = keras.Model(inputs, function(inputs))
    data = rng.normal(size=(512, 6)).astype("float32")
    with pytest.warns(CompressionWarning, match="comparisons stay in float: greater"):
        final = tfcompress.finalize(tfcompress.calibrate(model, data))
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    difference = tfcompress.load(artifact.path)(data) - final.predict(data, verbose=0)
    assert np.abs(difference).max() < 0.001 * artifact.outputs[0].step


def test_slopes_over_five_axes_are_integers(tmp_path, rng):
    # LiteRT's PReLU takes four.
    inputs = keras.Input((3, 4, 4, 5), name="x")
    draw = keras.initializers.RandomUniform(-0.5, 1.0, seed=1)
    model = keras.Model(inputs, layers.PReLU(draw, shared_axes=[1, 2])(inputs))
    same(model, rng.normal(size=(64, 3, 4, 4, 5)).astype("float32"), tmp_path)


def test_a_logarithm_of_next_to_nothing_is_not_called_an_error(tmp_path, rng):
    inputs = keras.Input((64,), name="x")
    repeated = ops.tile(layers.Dense(2)(inputs), (1, 64))  # all in two frequencies
    spectrum = layers.MelSpectrogram(16, 8, num_mel_bins=9, sampling_rate=100)(repeated)
    model = keras.Model(inputs, spectrum)
    data = rng.normal(size=(64, 64)).astype("float32")
    with pytest.warns(CompressionWarning, match="stay in float"):
        final = tfcompress.finalize(tfcompress.calibrate(model, data))
    tfcompress.export(final, tmp_path / "model.tflite")


@pytest.mark.sweep(2)
@pytest.mark.parametrize("merge", ["Add", "Average", "Subtract", "Multiply"])
def test_operands_that_are_reshaped_alike(merge, tmp_path, rng):
    # The converter moves both reshapings behind the sum, and then refuses its scale.
    inputs = keras.Input((4, 6), name="x")
    bent = [ops.tanh(layers.Dense(5)(inputs)), ops.tanh(layers.Dense(5)(inputs))]
    reshaped = [layers.Reshape((2, 10))(one) for one in bent]
    merged = layers.Activation("relu")(getattr(layers, merge)()(reshaped))
    model = keras.Model(inputs, layers.Dense(3)(merged))
    same(model, rng.normal(size=(256, 4, 6)).astype("float32"), tmp_path)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-0.4, 0.4), (-3, 1), (0, 0.7)])
def test_bounds_half_way_between_two_integers(low, high, tmp_path, rng):
    # TensorFlow and the converter shifted an even range different ways.
    inputs = keras.Input((6,), name="x")
    clipped = ops.clip(layers.Dense(8)(inputs), low, high)
    model = keras.Model(inputs, layers.Dense(3)(clipped))
    same(model, rng.normal(size=(256, 6)).astype("float32"), tmp_path)


@pytest.mark.parametrize("layer", ["LayerNormalization", "RMSNormalization"])
def test_a_row_of_next_to_nothing_is_what_it_is_alone(layer, rng):
    # Its square is rounded to zero. What it became was the logarithm of the smallest
    # number in the batch, and `finalize` found another.
    inputs = keras.Input((8,), name="x")
    model = keras.Model(inputs, getattr(layers, layer)()(inputs))
    data = rng.normal(size=(256, 8)).astype("float32")
    data[:8] *= 0.05
    aware = tfcompress.calibrate(model, data)
    together = aware(data).numpy()
    alone = np.concatenate([aware(row[None]).numpy() for row in data[:8]])
    np.testing.assert_array_equal(together[:8], alone)
    final = tfcompress.finalize(aware)(data).numpy()
    steps = np.abs(final - together)[:8] / np.diff(np.unique(final)).min()
    assert steps.max() < 1.001


def test_a_product_with_a_clipped_matrix(tmp_path, rng):
    # XNNPACK does not take its zero point, and LiteRT's own kernel rounds twice.
    inputs = keras.Input((6, 5), name="x")
    clipped = ops.clip(layers.Dense(7)(inputs), 0.0, 2.0)
    model = keras.Model(inputs, layers.Attention()([clipped, clipped]))
    same(model, rng.normal(size=(512, 6, 5)).astype("float32"), tmp_path)


TURNS = {
    "flip": lambda x: ops.flip(x, 1),
    "flip two": lambda x: ops.flip(x, (2, -1)),
    "quarter": lambda x: ops.rot90(x, 1, (1, 2)),
    "half": lambda x: ops.rot90(x[:, :, :5], 2, (1, 2)),
    "three": lambda x: ops.rot90(x, -1, (2, 1)),
    "whole": lambda x: ops.rot90(x, 4, (1, 2)),
}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_what_is_turned_round_stays_in_integers(turn, tmp_path, rng):
    # LiteRT's REVERSE has no kernel for integers, and took what follows with it.
    inputs = keras.Input((5, 6, 4), name="x")
    hidden = layers.Conv2D(4, 1, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Conv2D(3, 1)(turn(hidden)))
    data = rng.normal(size=(64, 5, 6, 4)).astype("float32")
    final = same(model, data, tmp_path)
    wanted = model.predict(data, verbose=0)
    far = np.abs(final.predict(data, verbose=0) - wanted).max()
    assert far < 0.05 * np.ptp(wanted)


def test_a_rectangle_turned_half_round_is_what_keras_makes_of_it(tmp_path, rng):
    # That is no rotation in Keras 3.15; the model was trained with it.
    inputs = keras.Input((5, 6, 4), name="x")
    x = ops.rot90(layers.Conv2D(4, 1)(inputs), 2, (1, 2))
    model = keras.Model(inputs, layers.Conv2D(3, 1)(x))
    data = rng.normal(size=(64, 5, 6, 4)).astype("float32")
    with pytest.warns(CompressionWarning, match=r"rot90.*Rot90.*ops.flip"):
        final = tfcompress.finalize(tfcompress.calibrate(model, data))
    wanted = model.predict(data, verbose=0)
    assert np.abs(final.predict(data, verbose=0) - wanted).max() < 0.05 * np.ptp(wanted)


LIMITS = {
    "clip": lambda x: ops.clip(x, -1e4, 1e4),
    "clip below": lambda x: ops.clip(x, -0.3, 1e6),
    "relu": lambda x: layers.ReLU(max_value=1000.0)(x),
    "into a softmax": lambda x: ops.softmax(ops.clip(x, -30.0, 30.0)),
    "beside another": lambda x: ops.concatenate([x, ops.clip(x, -0.5, 1e3)], 1),
}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_limits_far_beyond_the_data_cost_nothing(limit, tmp_path, rng):
    inputs = keras.Input((8,), name="x")
    model = keras.Model(inputs, limit(layers.Dense(3)(inputs)))
    data = rng.normal(size=(128, 8)).astype("float32")
    final = same(model, data, tmp_path)
    wanted = model.predict(data, verbose=0)
    far = np.abs(final.predict(data, verbose=0) - wanted).max()
    assert far < 0.02 * np.ptp(wanted)


@pytest.mark.parametrize("ranges", ["moving_average", "learned"])
def test_limits_hold_beyond_the_data(ranges, rng):
    # In integers it is the rounding that clips, whatever its range has become.
    inputs = keras.Input((8,), name="x")
    model = keras.Model(inputs, ops.clip(layers.Dense(3)(inputs), -0.5, 1.0))
    data = rng.normal(size=(128, 8)).astype("float32")
    scheme = tfcompress.QuantizationScheme(ranges=ranges)
    aware = tfcompress.quantize_aware(model, scheme)
    aware.compile(keras.optimizers.SGD(0.1), "mse")
    aware.fit(data, 9.0 * np.ones((128, 3)), epochs=2, verbose=0)
    final = tfcompress.finalize(aware)(9.0 * data).numpy()
    step = 1.5 / 255
    assert final.max() < 1.0 + step
    assert final.min() > -0.5 - step


POOLED = {
    "max": lambda x, seen: ops.max(x - 1e9 * (1 - seen[..., None]), 1),
    "added": lambda x, seen: ops.amax(x + (seen[..., None] - 1) * 1e6, axis=1),
    "layer": lambda x, seen: layers.GlobalMaxPooling1D()(
        x + (1.0 - seen[..., None]) * -1e4
    ),
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("pool", POOLED.values(), ids=POOLED)
def test_a_maximum_over_what_a_mask_shows(pool, tmp_path, rng):
    inputs, seen = keras.Input((6, 8), name="x"), keras.Input((6,), name="seen")
    pooled = pool(layers.Dense(8)(inputs), seen)
    model = keras.Model([inputs, seen], layers.Dense(3)(pooled))
    data = rng.normal(size=(96, 6, 8)).astype("float32")
    shown = (rng.random((96, 6)) > 0.4).astype("float32")
    shown[:, 0] = 1
    final = tfcompress.finalize(tfcompress.calibrate(model, [data, shown]))
    wanted = model.predict([data, shown], verbose=0)
    got = final.predict([data, shown], verbose=0)
    assert np.abs(got - wanted).max() < 0.03 * np.ptp(wanted)
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    tfcompress.verify(artifact, final, [data, shown]).raise_if_failed()
