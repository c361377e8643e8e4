"""Subclassed models and layers made of layers: through the file like any other."""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress import InvalidArgumentError, finalize, quantize_aware, verify

L = keras.layers


class Block(L.Layer):
    """A residual block without a config, as people write them."""

    def __init__(self, filters):
        super().__init__()
        self.first = L.Conv2D(filters, 3, padding="same", use_bias=False)
        self.norm = L.BatchNormalization(momentum=0.8)
        self.second = L.Conv2D(filters, 3, padding="same")

    def call(self, x, training=None):
        y = keras.ops.relu(self.norm(self.first(x), training=training))
        return keras.ops.relu(x + self.second(y))


class ResNet(keras.Model):
    def __init__(self, blocks=2):
        super().__init__(name="resnet")
        self.stem = L.Conv2D(8, 3, strides=2, padding="same", activation="relu")
        self.blocks = [Block(8) for _ in range(blocks)]
        self.pool = L.GlobalAveragePooling2D()
        self.head = L.Dense(10, name="head")

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.pool(x))


@pytest.fixture(scope="module")
def resnet(digits):
    keras.utils.set_random_seed(0)
    model = ResNet()
    model(digits[0][:1])
    return model


def fit(model, digits, steps=20):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss)
    x, y = (part[: 32 * steps] for part in digits)
    model.fit(x, y, batch_size=32, verbose=0)


@pytest.mark.export
def test_a_subclassed_model_goes_through_the_file(resnet, digits, tmp_path):
    before = resnet.get_weights()
    aware = quantize_aware(resnet)
    np.testing.assert_allclose(aware(digits[0][:8]), resnet(digits[0][:8]), atol=0.1)
    fit(aware, digits)
    final = finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    assert verify(artifact, final, digits[0][-64:]).max_error_steps <= 1.001
    assert artifact.integer_coverage == 1.0
    assert all(map(np.array_equal, before, resnet.get_weights()))


def test_layers_made_of_layers_inside_a_functional_model(digits):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = L.Conv2D(4, 1, name="stem")(inputs)
    block = Block(4)
    x = block(block(x))  # shared
    model = keras.Model(inputs, L.Dense(3, name="head")(L.Flatten()(x)))
    aware = quantize_aware(model)
    wrapped = [x for x in aware.layers if hasattr(x, "quantizer")]
    assert len(wrapped) == 4
    assert len(aware.trainable_weights) == len(model.trainable_weights)
    difference = aware(digits[0][:8]).numpy() - model(digits[0][:8]).numpy()
    assert np.abs(difference).max() < 0.1


def test_filters_and_schemes_see_the_inner_layers(resnet):
    paths = [path for path, _ in tfcompress.core.select.walk(resnet)]
    inner = next(path for path in paths if path.endswith(resnet.blocks[0].first.name))
    aware = quantize_aware(resnet, {inner: "w4a8"})
    wrapped = [x for x in aware.layers if hasattr(x, "quantizer")]
    kinds = [type(x.quantizer).__name__ for x in wrapped]
    assert sorted(set(kinds)) == ["LearnedStepQuantizer", "UniformQuantizer"]
    assert kinds.count("LearnedStepQuantizer") == 1


def test_several_inputs():
    class Towers(keras.Model):
        def __init__(self):
            super().__init__()
            self.left, self.right = L.Dense(4), L.Dense(4)

        def call(self, inputs):
            return self.left(inputs["user"]) * self.right(inputs["item"])

    model = Towers()
    x = {
        "user": np.random.default_rng(0).normal(size=(6, 3)).astype("float32"),
        "item": np.random.default_rng(1).normal(size=(6, 2)).astype("float32"),
    }
    model(x)
    aware = quantize_aware(model)
    np.testing.assert_allclose(aware(x), model(x), atol=0.1)


def test_a_call_that_needs_values_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = L.Dense(2)

        def call(self, x):
            return self.dense(x) if float(keras.ops.sum(x)) > 0 else x

    own = Own()
    own(np.ones((1, 2), "float32"))
    with pytest.raises(InvalidArgumentError, match=r"(?s)'own'.*symbolic.*keras\.ops"):
        quantize_aware(own)


@keras.saving.register_keras_serializable(package="tests")
class ClassToken(keras.layers.Layer):
    """A token of its own before the others, as tutorials of vision transformers do."""

    def __init__(self, last=False, **kwargs):
        super().__init__(**kwargs)
        self.last = last

    def build(self, input_shape):
        shape = (1, 1, input_shape[-1])
        self.token = self.add_weight(shape=shape, initializer="normal", name="token")

    def call(self, inputs):
        shape = (keras.ops.shape(inputs)[0], 1, inputs.shape[-1])
        both = [keras.ops.broadcast_to(self.token, shape), inputs]
        return keras.ops.concatenate(both[::-1] if self.last else both, axis=-2)

    def get_config(self):
        return {**super().get_config(), "last": self.last}


@pytest.mark.export
@pytest.mark.parametrize("last", [False, True])
def test_a_class_token_is_an_integer(last, tmp_path, rng):
    inputs = keras.Input((10, 6), name="x")
    tokens = ClassToken(last)(keras.layers.Dense(6)(inputs))
    tokens = keras.layers.MultiHeadAttention(2, 3)(tokens, tokens)
    model = keras.Model(inputs, keras.layers.Dense(3)(tokens[:, -1 if last else 0]))
    data = rng.normal(size=(64, 10, 6)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    assert artifact.integer_coverage == 1.0
    tfcompress.verify(artifact, final, data).raise_if_failed()
    wanted = model.predict(data, verbose=0)
    far = np.abs(final.predict(data, verbose=0) - wanted).max()
    assert far < 0.05 * np.ptp(wanted)


@keras.saving.register_keras_serializable(package="tests")
class Positions(keras.layers.Layer):
    def __init__(self, learned=True, **kwargs):
        super().__init__(**kwargs)
        self.learned = learned

    def build(self, input_shape):
        self.places = self.add_weight(
            shape=(1, *input_shape[1:]),
            initializer="normal",
            trainable=self.learned,
            name="places",
        )

    def call(self, inputs):
        return inputs + self.places

    def get_config(self):
        return {**super().get_config(), "learned": self.learned}


@pytest.mark.export
@pytest.mark.parametrize(
    "layer", [ClassToken, Positions, lambda: Positions(learned=False)]
)
def test_tokens_and_positions_train_on(layer, tmp_path, rng):
    inputs = keras.Input((5, 6), name="x")
    tokens = layer()(keras.layers.Dense(6)(inputs))
    flat = keras.layers.Flatten()(tokens)
    model = keras.Model(inputs, keras.layers.Dense(3)(flat))
    aware = quantize_aware(model)
    sizes = [
        sum(weight.shape.num_elements() for weight in one.trainable_weights)
        for one in (model, aware)
    ]
    # What does not train is no weight of the copy.
    assert sizes[0] == sizes[1]
    data = rng.normal(size=(64, 5, 6)).astype("float32")
    aware.compile(keras.optimizers.SGD(0.05), "mse")
    before = [weight.numpy() for weight in aware.trainable_weights]
    aware.fit(data, rng.normal(size=(64, 3)), epochs=2, verbose=0)
    moved = [
        not np.array_equal(old, new.numpy())
        for old, new in zip(before, aware.trainable_weights)
    ]
    assert all(moved)
    final = finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    verify(artifact, final, data).raise_if_failed()
    got, wanted = final.predict(data, verbose=0), aware.predict(data, verbose=0)
    assert np.abs(got - wanted).max() < 0.03 * np.ptp(wanted)


class Drawing(L.Layer):
    """Adds noise that nobody but Keras' global generator draws."""

    def __init__(self, parts, **kwargs):
        super().__init__(**kwargs)
        self.parts = [L.Dense(4) for _ in range(parts)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x + keras.random.normal((1, 4))


class DrawingModel(keras.Model):
    def __init__(self):
        super().__init__(name="dice")
        self.head = L.Dense(4)

    def call(self, x):
        return self.head(x) + keras.random.normal((1, 4))


@pytest.mark.parametrize("parts", [0, 1])
def test_what_a_call_draws_is_no_constant(parts):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Drawing(parts, name="mine")(inputs))
    with pytest.warns(tfcompress.CompressionWarning, match="mine .* draws random"):
        aware = quantize_aware(model)
    x = np.ones((1, 4), "float32")
    assert (aware(x).numpy() != aware(x).numpy()).any()


def test_a_model_that_draws_random_numbers_itself_is_refused():
    model = DrawingModel()
    model(np.ones((1, 4), "float32"))
    with pytest.raises(InvalidArgumentError, match="'dice' draws random numbers"):
        quantize_aware(model)
