"""Integers, pixels and categories as inputs; layers that only training needs."""

import functools
import inspect

import keras
import numpy as np
import pytest
from keras import ops

import tfcompress
from tfcompress.core.errors import CompressionWarning, UnsupportedLayerError
from tfcompress.layers import TRAINING_ONLY, LayerRule, register_layer_rule

L = keras.layers


def images(dtype="float32"):
    return np.random.default_rng(0).integers(0, 256, (32, 9, 7, 3)).astype(dtype)


def model_of(function, shape=(9, 7, 3), dtype="float32"):
    keras.utils.set_random_seed(0)
    x = keras.Input(shape, dtype=dtype, name="x")
    return keras.Model(x, function(x))


def head(x):
    return L.Dense(3, name="head")(L.Flatten()(L.Conv2D(4, 3, activation="relu")(x)))


def steps_off(model, samples, tmp_path):
    """How many steps the file is off the finalized model, and that the float one."""
    final = tfcompress.finalize(tfcompress.calibrate(model, samples))
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    expected = final.predict(samples, verbose=0)
    got = tfcompress.load(artifact.path)(samples)
    step = artifact.outputs[0].step
    plain = model.predict(samples, verbose=0)
    assert np.abs(expected - plain).max() < 0.06 * np.ptp(plain)
    return np.abs(np.asarray(got) - expected).max() / step


@pytest.mark.export
def test_pixels_of_8_bits(tmp_path):
    def function(x):
        return head(L.Rescaling(1 / 255)(L.RandomBrightness(0.2)(L.RandomFlip()(x))))

    model = model_of(function, dtype="uint8")
    assert steps_off(model, images("uint8"), tmp_path) < 1.001


@pytest.mark.export
def test_categories_beside_numbers(tmp_path):
    keras.utils.set_random_seed(0)
    number = keras.Input((1,), name="number")
    tokens = keras.Input((3,), dtype="int32", name="tokens")
    parts = [
        L.Discretization([-1.0, 0.0, 1.0], output_mode="one_hot")(number),
        L.CategoryEncoding(5, output_mode="one_hot")(tokens[:, :1]),
        L.CategoryEncoding(5, output_mode="multi_hot")(tokens),
        L.CategoryEncoding(5, output_mode="count")(tokens),
        ops.one_hot(tokens[:, 0], 5),
        tokens,
    ]
    model = keras.Model([number, tokens], L.Dense(3)(L.Concatenate()(parts)))
    random = np.random.default_rng(0)
    samples = [
        random.normal(size=(32, 1)).astype("float32"),
        random.integers(0, 5, (32, 3)).astype("int32"),
    ]
    assert steps_off(model, samples, tmp_path) < 1.001


def test_text_features_train():
    color = keras.Input((1,), dtype="string", name="color")
    age = keras.Input((1,), name="age")
    words = L.StringLookup(vocabulary=["red", "green"], output_mode="one_hot")(color)
    model = keras.Model([color, age], L.Dense(1)(L.Concatenate()([words, age])))
    aware = tfcompress.quantize_aware(model)
    aware.compile("adam", "mse")
    samples = [ops.convert_to_tensor([["red"], ["green"]] * 8), np.ones((16, 1))]
    aware.fit(samples, np.ones(16), verbose=0)
    assert tfcompress.finalize(aware).predict(samples, verbose=0).shape == (16, 1)


def test_a_cast_that_does_nothing_is_nothing():
    def function(x):
        return head(ops.cast(ops.cast(x, "float32"), "float16"))

    names = [
        layer.name for layer in tfcompress.quantize_aware(model_of(function)).layers
    ]
    assert not [name for name in names if "cast" in name]


def test_a_number_out_of_reach_is_refused():
    def function(x):
        return head(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1e9))

    with pytest.raises(UnsupportedLayerError, match="-1e\\+09"):
        tfcompress.quantize_aware(model_of(function))


ARGUMENTS = {
    "RandomCrop": (9, 7),
    "RandomPosterization": (4,),
    "MaxNumBoundingBoxes": (4,),
    "RandomTranslation": (0.2, 0.2),
    **dict.fromkeys(
        (
            *("RandomRotation", "RandomZoom", "RandomContrast", "RandomBrightness"),
            *("RandomHue", "RandomSaturation", "RandomSharpness", "Dropout"),
            *("RandomColorDegeneration", "SpatialDropout2D", "GaussianDropout"),
            *("AlphaDropout", "GaussianNoise"),
        ),
        (0.2,),
    ),
}
# They need other arguments, other ranks or no arguments that change anything.
OTHERS = {"Layer", "InputLayer", "SpatialDropout1D", "SpatialDropout3D", "Activation"}


def keeps_images(kind):
    try:
        layer = kind(*ARGUMENTS.get(kind.__name__, ()))
        if "training" not in inspect.signature(layer.call).parameters:
            return False
        return np.array_equal(layer(images(), training=False), images())
    except Exception:  # it takes something else
        return False


def test_every_layer_that_does_nothing_after_training_is_known():
    kinds = {c for c in vars(L).values() if inspect.isclass(c)}
    kinds = {c for c in kinds if issubclass(c, L.Layer) and c.__name__ not in OTHERS}
    idle = {kind.__name__ for kind in kinds if keeps_images(kind)}
    assert len(idle) > 25
    assert (
        idle - {kind.__name__ for kind in TRAINING_ONLY} - {"SpectralNormalization"}
        == set()
    )


def test_finalize_takes_them_out():
    # Keras cannot call an Equalization on symbolic images.
    kinds = [k for k in TRAINING_ONLY if k.__name__ not in {"Equalization", *OTHERS}]
    added = [kind(*ARGUMENTS.get(kind.__name__, ())) for kind in kinds]

    def function(x):
        x = L.Rescaling(1 / 255)(x)
        for layer in added:
            x = layer(x)
        return head(x)

    model = model_of(function)
    final = tfcompress.finalize(model)
    names = {layer.name for layer in final.layers}
    assert not names.intersection(layer.name for layer in added)
    expected = model.predict(images(), verbose=0)
    np.testing.assert_array_equal(final.predict(images(), verbose=0), expected)


@pytest.mark.export
def test_augmentation_leaves_no_trace(tmp_path):
    def function(x):
        x = L.RandomFlip()(L.Rescaling(1 / 255)(x))
        return head(L.GaussianNoise(0.1)(L.RandomRotation(0.1)(x)))

    model = model_of(function)
    aware = tfcompress.quantize_aware(model)
    assert sum("quantizer" in layer.name for layer in aware.layers) == 4
    assert steps_off(model, images(), tmp_path) < 0.001


def test_dropout_that_goes_on_is_named():
    class Forever(L.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    with pytest.warns(CompressionWarning, match="forever"):
        tfcompress.quantize_aware(model_of(lambda x: head(Forever(0.5)(x))))


def test_a_users_layer_may_be_one_that_only_training_needs():
    class Drop(L.Layer):
        def call(self, inputs, training=None):
            return inputs * 2 if training else inputs

    register_layer_rule(LayerRule(Drop, "select", training_only=True))
    model = model_of(lambda x: head(Drop(name="drop")(x)))
    final = tfcompress.finalize(tfcompress.calibrate(model, images() / 255))
    assert "drop" not in [layer.name for layer in final.layers]


def test_a_crop_at_random_is_refused():
    def function(x):
        return L.GlobalAveragePooling2D()(L.RandomCrop(5, 5, name="crop")(x))

    with pytest.raises(UnsupportedLayerError, match="crop"):
        tfcompress.quantize_aware(model_of(function))


@pytest.mark.parametrize(
    "layer",
    [
        L.LayerNormalization(name="norm"),
        L.RMSNormalization(name="norm"),
        L.Activation("gelu", name="norm"),
        L.Softmax(name="norm"),
    ],
)
def test_16_bits_are_refused_by_the_users_name(layer):
    with pytest.raises(UnsupportedLayerError, match="norm"):
        tfcompress.quantize_aware(
            model_of(lambda x: head(layer(L.Dense(4)(x)))), "w8a16"
        )


def gated(x):
    return x * ops.sigmoid(1.5 * x)


ACTIVATIONS = {
    "instance": L.LeakyReLU(0.1),
    "bounded": L.ReLU(max_value=0.5),
    "weights": L.PReLU("uniform", shared_axes=[1, 2]),
    "lambda": lambda x: keras.activations.relu(x, negative_slope=0.1),
    "partial": functools.partial(keras.activations.elu, alpha=0.5),
    "celu": functools.partial(keras.activations.celu, alpha=0.5),
    "own": gated,
}


class Gate(L.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")
        self.bias = self.add_weight(shape=(4,), name="bias")

    def call(self, inputs):
        return ops.matmul(inputs, self.kernel) + self.bias


class Block(L.Layer):
    """A residual block with a scale of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.drop = L.Dense(3, activation="relu"), L.Dropout(0.1)

    def build(self, shape):
        self.dense.build(shape)
        self.scale = self.add_weight(shape=(3,), initializer="ones", name="scale")

    def call(self, inputs, training=None):
        inner = self.drop(self.dense(inputs), training=training)
        return inputs + (1 + self.scale) * inner


class Twice(L.Dense):
    def call(self, inputs):
        return super().call(inputs) * 2.0


OWN = {
    **{
        name: lambda x, act=activation: L.Conv2D(4, 3, activation=act)(x)
        for name, activation in ACTIVATIONS.items()
    },
    "Gate": lambda x: Gate(name="gate")(x),
    "Block": lambda x: Block()(x),
    "Twice": lambda x: Twice(4)(x),
    "SpectralNormalization": lambda x: L.SpectralNormalization(L.Conv2D(4, 3))(x),
}


@pytest.mark.export
@pytest.mark.filterwarnings("ignore:.*lambda:UserWarning")
def test_what_users_write_reaches_integers(tmp_path):
    samples = np.random.default_rng(0).normal(size=(32, 9, 7, 3)).astype("float32")
    model = model_of(lambda x: {name: make(x) for name, make in OWN.items()})
    plain = model.predict(samples, verbose=0)
    final = tfcompress.finalize(tfcompress.calibrate(model, samples))
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    assert artifact.integer_coverage == 1.0
    got = tfcompress.load(artifact.path).run(samples)
    expected = final.predict(samples, verbose=0)
    steps = {o.name: o.step for o in artifact.outputs}
    off = {n: np.abs(got[n] - expected[n]).max() / steps[n] for n in OWN}
    assert {n: gap for n, gap in off.items() if gap > 1.001} == {}
    # All are made of convolutions whose outputs span three and more.
    change = {
        n: np.abs(expected[n] - plain[n]).max() / max(3.0, np.ptp(plain[n]))
        for n in OWN
    }
    assert {n: c for n, c in change.items() if c > 0.03} == {}


def test_what_has_no_integer_form_stays_in_one_piece():
    class Root(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), name="scale")

        def call(self, inputs):
            size = ops.mean(ops.square(inputs), axis=-1, keepdims=True)
            return inputs * ops.rsqrt(size + 1e-6) * self.scale

    class Tied(L.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

        def call(self, inputs):
            return (inputs @ self.kernel) @ ops.transpose(self.kernel)

    for kind, reason in ((Root, "computes Rsqrt"), (Tied, "used in 2 places")):
        model = model_of(lambda x, kind=kind: head(kind(name="own")(x)))
        with pytest.warns(CompressionWarning, match=f"own .*{reason}"):
            aware = tfcompress.quantize_aware(model)
        assert "own" in [layer.name for layer in aware.layers]


def test_a_normalized_kernel_stays_normalized():
    layer = L.SpectralNormalization(L.Conv2D(4, 3, name="conv"), name="norm")
    model = model_of(lambda x: L.Dense(2)(L.Flatten()(layer(x))))
    aware = tfcompress.quantize_aware(model)
    aware.compile("adam", "mse")
    aware.fit(images() / 255, np.zeros((32, 2)), verbose=0)
    kernel = np.asarray(aware.get_layer("conv").layer.kernel).reshape(-1, 4)
    assert np.linalg.svd(kernel, compute_uv=False)[0] == pytest.approx(1, abs=0.02)
    final = tfcompress.finalize(model)
    assert "norm" not in [one.name for one in final.layers]
