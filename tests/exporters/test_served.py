"""SavedModels of finalized models: the same bits, and little more work than floats."""

import collections
import contextlib
import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tests.exporters.c_api import run_in_c_api
from tfcompress.exporters import export, load
from tfcompress.exporters.saved_model.byte_functions import Byte
from tfcompress.exporters.saved_model.products import _settled
from tfcompress.exporters.saved_model.programs import reaching_out
from tfcompress.exporters.tracing import trace
from tfcompress.quantization.integers.sums import plain_arithmetic

L = keras.layers
pytestmark = pytest.mark.export


def dense():
    x = keras.Input((32,), name="x")
    h = L.Dense(64, "relu", name="hidden")(x)
    return keras.Model(x, L.Dense(5, name="logits")(h))


def convolutions():
    x = keras.Input((8, 8, 3), name="x")
    h = L.Conv2D(16, 3, padding="same", activation="relu", name="first")(x)
    other = L.Conv2D(16, 3, padding="same", name="second")(h)
    h = L.MaxPooling2D(2)(L.ReLU()(L.Add()([h, other])))
    h = L.Concatenate()([h, L.AveragePooling2D(2)(other)])
    return keras.Model(x, L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(h)))


def recurrent():
    x = keras.Input((6, 8), name="x")
    return keras.Model(x, L.Dense(3, name="logits")(L.LSTM(24, name="lstm")(x)))


def attention():
    x = keras.Input((6, 16), name="x")
    h = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(2, 8)(x, x)]))
    h = L.Dense(16, name="out")(L.Dense(24, "relu", name="in")(h))
    return keras.Model(x, L.Dense(3, name="logits")(L.GlobalAveragePooling1D()(h)))


MODELS = (dense, convolutions, recurrent, attention)


@pytest.fixture(scope="module", params=MODELS, ids=lambda build: build.__name__)
def case(request, tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = request.param()
    x = np.random.default_rng(0).normal(size=(48, *model.inputs[0].shape[1:]))
    x = x.astype("float32")
    final = tfcompress.finalize(
        tfcompress.calibrate(model, x, "w8a8", correct_bias=False)
    )
    path = tmp_path_factory.mktemp("served") / "model"
    return request.param.__name__, final, export(final, path, format="saved_model"), x


def operators(artifact):
    counts = collections.Counter()
    for operator in artifact.operators:
        counts[operator.name] += operator.count
    return counts


def test_every_bit_is_that_of_the_plain_graph(case):
    _, final, artifact, x = case
    (plain,) = trace(final).function(tf.constant(x)).values()
    served = load(artifact)(x)
    np.testing.assert_array_equal(served.view("uint32"), plain.numpy().view("uint32"))


def gates():
    x = keras.Input((5, 8), name="x")
    h = L.Bidirectional(L.GRU(12, return_sequences=True), name="both")(x)
    return keras.Model(x, L.SimpleRNN(8, name="last")(h))


def masked():
    x = keras.Input((5,), dtype="int32", name="x")
    h = L.Embedding(20, 8, mask_zero=True, name="words")(x)
    return keras.Model(x, L.Dense(3, name="logits")(L.LSTM(12, name="lstm")(h)))


def curves():
    x = keras.Input((8, 8, 4), name="x")
    h = L.DepthwiseConv2D(3, padding="same", name="depth")(x)
    h = L.GroupNormalization(2, name="groups")(L.Conv2D(8, 1, name="point")(h))
    h = L.Activation("silu", name="silu")(L.MaxPooling2D(2)(h))
    h = L.Subtract()([h, L.Activation("gelu", name="gelu")(h)])
    return keras.Model(x, L.Dense(4, "softmax", name="out")(L.Flatten()(h)))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("build", [gates, masked, curves], ids=lambda b: b.__name__)
def test_every_bit_of_other_layers(build, exact, tmp_path, rng):
    keras.utils.set_random_seed(1)
    model = build()
    shape = (40, *model.inputs[0].shape[1:])
    if build is masked:
        x = rng.integers(0, 20, shape).astype("int32")
    else:
        x = rng.normal(size=shape).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, x))
    with contextlib.nullcontext() if exact else plain_arithmetic():
        (plain,) = trace(final).function(tf.constant(x)).values()
    path = tmp_path / "model"
    served = load(export(final, path, format="saved_model", exact_integers=exact))
    np.testing.assert_array_equal(
        served(x).view("uint32"), plain.numpy().view("uint32")
    )


def test_a_sample_that_is_no_number_spoils_no_other_one(case):
    _, final, artifact, x = case
    spoilt = x.copy()
    spoilt[1] = np.nan
    found, clean = load(artifact)(spoilt), load(artifact)(x)
    np.testing.assert_array_equal(np.delete(found, 1, 0), np.delete(clean, 1, 0))
    (plain,) = trace(final).function(tf.constant(spoilt)).values()
    np.testing.assert_array_equal(found, plain)


def test_a_request_neither_divides_nor_rounds_weights(case):
    name, _, artifact, _ = case
    counts = operators(artifact)
    most = {
        # A rounding for the input and one for each layer, on either.
        "dense": {"RealDiv": 0, "Round": 3, "ClipByValue": 3, "Mul": 4, "Cast": 0},
        "convolutions": {"RealDiv": 2, "Round": 8, "Cast": 3, "Floor": 1},
        # Six steps, of which the last five have a product with the state. All add in
        # float32, and cut the gates apart by one operation.
        "recurrent": {
            **{"MatMul": 7, "RealDiv": 20, "Cast": 0, "Sub": 0, "Floor": 0},
            **{"StridedSlice": 1, "SplitV": 12, "AddV2": 12},
        },
        # A table has the inverse root of the variance.
        "attention": {
            **{"Shape": 0, "Pack": 0, "GatherV2": 1, "Prod": 0, "Exp": 0, "Log": 0},
            **{"Cast": 1, "BatchMatMulV2": 2, "Floor": 0},
        },
    }[name]
    assert {name: counts[name] for name in most if counts[name] > most[name]} == {}
    assert counts["Minimum"] == 0
    assert counts["Maximum"] == counts["GatherV2"]  # of an index


def test_steps_and_blocks_are_stored_once(tmp_path, rng):
    """A layer of twice the steps takes no more graph, but for its calls."""
    sizes = {}
    for steps in (8, 16):
        keras.utils.set_random_seed(0)
        x = rng.normal(size=(32, steps, 4)).astype("float32")
        model = keras.Sequential([keras.Input((steps, 4), name="x"), L.LSTM(8)])
        final = tfcompress.finalize(tfcompress.calibrate(model, x))
        path = tmp_path / f"{steps}"
        made = export(final, path, format="saved_model")
        sizes[steps] = (made.path / "saved_model.pb").stat().st_size
        served = load(made)
        for count in (1, 32):
            (plain,) = trace(final).function(tf.constant(x[:count])).values()
            np.testing.assert_array_equal(served(x[:count]), plain)
    assert sizes[16] - sizes[8] < 8 * 1000  # 7600 a step without calls


def test_products_are_the_same_in_each_order():
    """Those of this step are not: TensorFlow's optimizer chooses one."""
    step = np.float32(0.5 / 127) * np.float32(1 + 2**-22)
    one = Byte("a:0", -127, 127), Byte("b:0", -127, 127)
    found = _settled(*one, float(step), (-128.0, 127.0))
    numbers = one[0].values[:-2]
    products = np.multiply.outer(numbers, numbers)
    wanted = np.clip(np.rint(products * step), -128, 127)
    pushed = np.multiply.outer(numbers * found, numbers)
    np.testing.assert_array_equal(np.clip(np.rint(pushed), -128, 127), wanted)


def test_servers_in_c_fill_the_weights(case):
    _, _, artifact, x = case
    (found,) = run_in_c_api(artifact, {"x": x[:3]}).values()
    np.testing.assert_array_equal(found, load(artifact)(x[:3]))


def test_it_reaches_out_for_nothing(case):
    assert reaching_out(case[2].path) == []


def test_keras_takes_it_for_a_layer(case):
    """Its variables have shapes, from which Keras makes some of its own."""
    _, _, artifact, x = case
    layer = keras.layers.TFSMLayer(artifact.path, call_endpoint="serving_default")
    (found,) = layer(x).values()
    np.testing.assert_array_equal(found, load(artifact)(x))


def test_a_signature_outlives_what_was_loaded(case):
    _, _, artifact, x = case
    call = tf.saved_model.load(str(artifact.path)).signatures["serving_default"]
    gc.collect()
    (found,) = call(tf.constant(x)).values()
    np.testing.assert_array_equal(found, load(artifact)(x))


@pytest.mark.parametrize("steps", [4, 10, 12])
def test_masks_that_the_model_holds(steps, tmp_path, rng):
    """TensorFlow keeps small arrays as constants, and larger ones as arguments."""
    x = keras.Input((steps, 8), name="x")
    outputs = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    data = rng.normal(size=(32, steps, 8)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(keras.Model(x, outputs), data))
    artifact = export(final, tmp_path / "causal", format="saved_model")
    (plain,) = trace(final).function(tf.constant(data)).values()
    np.testing.assert_array_equal(load(artifact)(data), plain)


def test_versions_that_are_loaded_together_keep_their_weights(tmp_path, rng):
    """Variables of one name do not mix, and the end of one does not end the other."""
    x = rng.normal(size=(16, 32)).astype("float32")
    runners, expected = [], []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        final = tfcompress.finalize(tfcompress.calibrate(dense(), x, "w8a8"))
        artifact = export(final, tmp_path / "model", format="saved_model")
        runners += [load(artifact), load(artifact)]
        expected += [final.predict(x, verbose=0)] * 2
    del runners[0], expected[0]
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    for runner, outputs in zip(runners, expected):
        np.testing.assert_array_equal(runner(x), outputs)


def test_a_wide_model_is_a_quarter_of_the_float_one(tmp_path, rng):
    model = keras.Sequential([keras.Input((256,), name="x")])
    for _ in range(3):
        model.add(L.Dense(256, "relu"))
    x = rng.normal(size=(16, 256)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, x, "w8a8"))
    plain = export(model, tmp_path / "float", format="saved_model")
    for exact in (True, False):
        served = export(
            final, tmp_path / f"{exact}", format="saved_model", exact_integers=exact
        )
        assert served.size < 0.35 * plain.size


def test_a_model_of_one_number(tmp_path):
    data = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)]
    )
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    served = tfcompress.export(final, tmp_path / "1", format="saved_model")
    expected = final.predict(data, verbose=0)
    np.testing.assert_array_equal(tfcompress.load(served)(data), expected)


def test_a_session_runs_it_and_cannot_save_it(case, tmp_path):
    """Its integers are no state that training could change."""
    _, _, artifact, x = case
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        loaded = v1.saved_model.load(session, ["serve"], str(artifact.path))
        signature = loaded.signature_def["serving_default"]
        (output,) = (tensor.name for tensor in signature.outputs.values())
        found = session.run(output, {signature.inputs["x"].name: x[:3]})
        saver = v1.train.Saver(saver_def=loaded.saver_def)
        with pytest.raises(tf.errors.InvalidArgumentError, match="made for serving"):
            saver.save(session, str(tmp_path / "saved"))
    np.testing.assert_array_equal(found, load(artifact)(x[:3]))
