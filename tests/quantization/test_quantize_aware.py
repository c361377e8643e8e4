"""quantize_aware: what it makes of a model, and what it refuses."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tfcompress
from tests.quantization.conftest import BUILDERS, as_numpy, small_model
from tfcompress import FakeQuantize, QuantizedLayer

L = keras.layers


def names(model):
    return [layer.name for layer in model.layers]


@pytest.mark.parametrize("name", list(BUILDERS))
def test_weights_are_copied_and_the_original_is_untouched(name):
    model = BUILDERS[name]()
    before = [np.array(w) for w in model.get_weights()]
    quantized = tfcompress.quantize_aware(model)
    for old, new in zip(before, model.get_weights()):
        assert_array_equal(old, new)
    assert model.layers[-1].output is not None  # still one call of each layer
    for layer in model.layers:
        split = isinstance(layer, L.SeparableConv2D)
        if layer.name in names(quantized) and layer.weights and not split:
            copied = quantized.get_layer(layer.name).get_weights()
            assert_array_equal(copied[0], layer.get_weights()[0])


@pytest.mark.parametrize("name", list(BUILDERS))
def test_output_is_close_to_the_float_model(name, digits):
    model = BUILDERS[name]()
    quantized = tfcompress.quantize_aware(model)
    x = digits[0][:64]
    expected, got = as_numpy(model(x)), as_numpy(quantized(x))
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max() + 0.02


def test_no_rounding_between_convolution_norm_and_relu():
    quantized = tfcompress.quantize_aware(BUILDERS["residual"]())
    order = names(quantized)
    at = order.index("conv")
    assert order[at : at + 4] == ["conv", "norm", "relu", "relu_quantizer"]
    assert "add_quantizer" not in order  # the addition fuses with its ReLU
    assert order[1] == "image_quantizer"
    assert order[-1] == "logits_quantizer"


def test_layers_that_pass_numbers_on_have_no_range_of_their_own():
    quantized = tfcompress.quantize_aware(BUILDERS["residual"]())
    follows = {
        "max_pooling2d": False,
        "dropout": False,
    }
    for layer in quantized.layers:
        for stem in follows:
            if layer.name.startswith(stem):
                follows[stem] |= layer.name.endswith("quantizer")
    assert follows == {"max_pooling2d": False, "dropout": False}


def test_inputs_of_a_concatenation_share_one_range():
    quantized = tfcompress.quantize_aware(BUILDERS["branches"]())
    shared = quantized.get_layer("join_quantizer")
    assert isinstance(shared, FakeQuantize)
    assert shared.sites == 2
    assert tuple(shared.ranges.shape) == (2, 2)


def test_shared_range_spans_all_its_sites():
    layer = FakeQuantize(sites=2)
    layer.build()
    layer(np.array([[-1.0, 1.0]], "float32"), site=0, training=True)
    layer(np.array([[0.0, 5.0]], "float32"), site=1, training=True)
    assert layer.learned_range() == pytest.approx((-1.0, 5.0), abs=0.02)


def test_fused_activation_is_split_when_integers_need_it():
    quantized = tfcompress.quantize_aware(BUILDERS["depthwise"]())
    order = names(quantized)
    assert order[-4:] == [
        "probs",
        "probs_quantizer",
        "probs_softmax",
        "probs_quantizer_",
    ]
    assert quantized.get_layer("probs_quantizer_").fixed_range == (0.0, 255 / 256)
    assert {"sep_depthwise", "sep"} <= set(order)


def test_nested_model_is_inlined_and_stays_shared():
    quantized = tfcompress.quantize_aware(BUILDERS["nested"]())
    assert "block" not in names(quantized)
    inner = quantized.get_layer("inner_conv")
    assert isinstance(inner, QuantizedLayer)
    kernels = [v for v in quantized.trainable_variables if v.name == "kernel"]
    assert len(kernels) == 3  # outer, the shared block's, logits


def test_reloaded_model_gives_the_same_output(shipped, digits, tmp_path):
    model = shipped("branches").trained
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = digits[0][:100]
    assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    again.fit(*digits, batch_size=256, epochs=1, verbose=0)  # and goes on training


def test_filters_leave_other_layers_in_float():
    quantized = tfcompress.quantize_aware(small_model(), filters="hidden")
    assert isinstance(quantized.get_layer("hidden"), QuantizedLayer)
    assert type(quantized.get_layer("logits")) is L.Dense


def test_operators_between_tensors_are_quantized_as_layers_are(recwarn):
    image = keras.Input((6, 6, 2), name="image")
    x = L.Conv2D(4, 3, padding="same", name="a")(image)
    y = L.Conv2D(4, 3, padding="same", name="b")(image)
    z = keras.ops.relu(x + y) * keras.ops.sigmoid(x - y)
    z = keras.ops.concatenate([z, x], axis=-1)
    quantized = tfcompress.quantize_aware(keras.Model(image, z))
    assert not [w for w in recwarn if w.category is tfcompress.CompressionWarning]
    kinds = [type(layer) for layer in quantized.layers]
    for kind in (L.Add, L.Subtract, L.Multiply, L.Concatenate):
        assert kinds.count(kind) == 1


def test_frozen_layers_stay_frozen():
    model = small_model()
    model.get_layer("hidden").trainable = False
    quantized = tfcompress.quantize_aware(model)
    assert len(quantized.trainable_variables) == 2


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"steps_per_execution": 4},
        {"jit_compile": True},
        {"run_eagerly": True},
    ],
    ids=str,
)
def test_trains_and_prunes_in_every_mode(arguments, digits):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), L.Conv2D(4, 3, activation="relu"), L.Flatten()]
        + [L.Dense(10)]
    )
    quantized = tfcompress.quantize_aware(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    quantized.compile(keras.optimizers.Adam(1e-2), loss, **arguments)
    prune = tfcompress.PruneWeights(0.5, scope="layer")
    history = quantized.fit(
        digits[0][:512],
        digits[1][:512],
        batch_size=64,
        epochs=2,
        verbose=0,
        callbacks=[prune],
    )
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert np.mean(as_numpy(quantized.layers[2].layer.kernel) == 0) == 0.5
    final = tfcompress.finalize(quantized)
    kernels = [layer.get_weights()[0] for layer in final.layers if layer.weights]
    assert np.mean(kernels[0] == 0) >= 0.5


@pytest.mark.sweep(1)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_ends_in_a_float32_model(policy, digits):
    keras.config.set_dtype_policy(policy)
    quantized = tfcompress.quantize_aware(BUILDERS["residual"]())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    quantized.compile("adam", loss)
    history = quantized.fit(
        digits[0][:256], digits[1][:256], batch_size=64, epochs=2, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()
    final = tfcompress.finalize(quantized)
    assert {layer.compute_dtype for layer in final.layers[1:]} == {"float32"}
    x = digits[0][:32]
    gap = np.abs(as_numpy(final(x)) - as_numpy(quantized(x)).astype("float32"))
    assert gap.max() < 0.5


def test_unknown_scheme_names_the_valid_ones():
    with pytest.raises(tfcompress.InvalidArgumentError, match="'w8a8'") as error:
        tfcompress.quantize_aware(small_model(), "w9a9")
    assert "'w9a9'" in str(error.value)


def test_filters_that_match_nothing():
    with pytest.raises(tfcompress.InvalidArgumentError, match="hidden, logits"):
        tfcompress.quantize_aware(small_model(), filters="conv")


def test_unbuilt_models_and_other_things():
    with pytest.raises(tfcompress.InvalidArgumentError, match="has not been built"):
        tfcompress.quantize_aware(keras.Sequential([L.Dense(2)]))

    with pytest.raises(tfcompress.InvalidArgumentError, match="not a Keras model"):
        tfcompress.quantize_aware("model.keras")


def test_twice_is_refused():
    quantized = tfcompress.quantize_aware(small_model())
    with pytest.raises(tfcompress.InvalidArgumentError, match="already"):
        tfcompress.quantize_aware(quantized)


@keras.saving.register_keras_serializable("tests")
class Unheard(L.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1], 2), name="scale")

    def call(self, x):
        return keras.ops.matmul(keras.ops.sort(x), self.scale)


def unheard_model():
    return keras.Sequential(
        [keras.Input((4,)), L.Dense(4, name="known"), Unheard(name="odd")]
    )


def test_layer_without_a_rule_is_named_in_one_warning():
    with pytest.warns(tfcompress.CompressionWarning, match=r"odd \(Unheard\)") as seen:
        quantized = tfcompress.quantize_aware(unheard_model())
    # NumPy has a word for Keras' copies of arrays, each time.
    assert [w.category for w in seen].count(tfcompress.CompressionWarning) == 1
    assert isinstance(quantized.get_layer("known"), QuantizedLayer)


def test_untrained_model_cannot_be_finalized():
    quantized = tfcompress.quantize_aware(small_model())
    with pytest.raises(tfcompress.InvalidArgumentError, match="never trained") as error:
        tfcompress.finalize(quantized)
    names = [layer.name for layer in small_model().layers]
    assert any(f"'{name}'" in str(error.value) for name in names)


def test_finalize_folds_and_drops(shipped):
    final = shipped("residual").final
    kinds = {type(layer) for layer in final.layers}
    assert L.Dropout not in kinds
    assert L.BatchNormalization not in kinds
    assert QuantizedLayer not in kinds
    assert not final.compiled


def test_finalized_kernels_are_on_their_grid(shipped):
    kernel = shipped("residual").final.get_layer("conv").get_weights()[0]
    scale = np.abs(kernel).max((0, 1, 2)) / 127
    steps = kernel / scale
    assert_allclose(steps, np.round(steps), atol=1e-3)


def test_finalize_of_a_float_model_keeps_its_output():
    model = small_model()
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    assert_array_equal(as_numpy(tfcompress.finalize(model)(x)), as_numpy(model(x)))


@pytest.mark.export
def test_tables_whose_columns_differ_are_normalized_in_float(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3)) * [1, 5e3, 1e6] + [0, 3e4, -1e6]
    x = x.astype("float32")
    normalize = keras.layers.Normalization(name="normalize")
    normalize.adapt(x)
    model = keras.Sequential(
        [
            keras.Input((3,), name="table"),
            normalize,
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(2),
        ]
    )
    with pytest.warns(tfcompress.CompressionWarning, match="leave 2 of its 3 columns"):
        aware = tfcompress.quantize_aware(model)
    aware(x, training=True)
    final = tfcompress.finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "table.tflite")
    assert tfcompress.verify(artifact, final, x).max_error_steps <= 1.001
    expected = model.predict(x, verbose=0)
    error = np.abs(tfcompress.load(artifact)(x) - expected)
    assert error.max() < 0.03 * np.ptp(expected)


def test_inputs_of_names_that_no_layer_can_have():
    inputs = [keras.Input((5,), name=name) for name in ("age", "features of person")]
    x = keras.layers.Concatenate(name="both")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    data = [np.random.default_rng(i).normal(size=(16, 5)).astype("f4") for i in (0, 1)]
    aware = tfcompress.quantize_aware(model)
    aware.compile("sgd", "mse")
    aware.fit(data, np.zeros((16, 2)), verbose=0)
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    assert np.isfinite(final.predict(data, verbose=0)).all()
    assert [one.name for one in final.inputs] == ["age", "features of person"]
