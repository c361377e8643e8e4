"""Layers made of layers, and subclassed models, as graphs that lose nothing."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress.channels.dependencies import channel_groups
from tfcompress.core.errors import CompressionWarning, InvalidArgumentError
from tfcompress.core.graph import build, trace
from tfcompress.core.inlining import inlined, unique_names
from tfcompress.core.select import walk
from tfcompress.finalization import finalize
from tfcompress.layers import rule_of
from tfcompress.low_rank.factorize import factorize
from tfcompress.quantization.calibration.calibrate import calibrate
from tfcompress.quantization.quantize import quantize_aware

serializable = keras.saving.register_keras_serializable("inlining")


@serializable
class Block(layers.Layer):
    """Sublayers whose names are the same in every block."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.theta = layers.Dense(8, activation="relu", name="theta")
        self.drop = layers.Dropout(0.5, name="drop")
        self.phi = layers.Dense(4, name="phi")

    def call(self, x, training=False):
        return x + self.phi(self.drop(self.theta(x), training=training))


@serializable
class Positions(layers.Layer):
    """Calls a layer on a constant, as patch encoders do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = layers.Dense(4)
        self.embed = layers.Embedding(3, 4)

    def call(self, x):
        return self.project(x) + self.embed(ops.arange(0, 3, 1))


@serializable
class Scaled(layers.Layer):
    """Has weights of its own beside layers, one of them in a list of dicts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)
        self.token = self.add_weight(shape=(1, 3, 4), name="token")
        scale = self.add_weight(shape=(4,), initializer="ones", name="scale")
        self.held = [{"scale": scale}]

    def call(self, x):
        return (self.dense(x) + self.token) * self.held[0]["scale"]


@serializable
class TwoOutputs(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = layers.Dense(4), layers.Dense(4)

    def call(self, inputs):
        return {"sum": self.left(inputs[0]) + self.right(inputs[1]), "x": inputs[0]}


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block, self.head = Block(), layers.Dense(2)
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")

    def call(self, x, training=False):
        return self.head(self.block(x, training=training) * self.scale)


def flat(*stack):
    inputs = outputs = keras.Input((3, 4), name="x")
    for layer in stack:
        outputs = layer(outputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(outputs))


def sequential(*stack):
    return keras.Sequential([keras.Input((3, 4)), *stack])


def shared():
    block = sequential(Block(), sequential(Block(), layers.ReLU()))
    return flat(block, block)


def two_outputs():
    x = keras.Input((3, 4), name="x")
    made = TwoOutputs()([x, Block()(x)])
    return keras.Model(x, layers.Add()([made["sum"], made["x"]]))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 3, 4), "float32"))
    return model


MODELS = {
    "nested": lambda: flat(Block(), sequential(Block(), sequential(Block()))),
    "shared": shared,
    "blocks": lambda: flat(Block(), Block(), Block()),
    "positions": lambda: flat(Positions(), Positions()),
    "own weights": lambda: flat(Scaled(), sequential(Scaled())),
    "two outputs": two_outputs,
    "subclassed": subclassed,
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("kind", MODELS)
def test_composites_at_any_depth_become_what_they_call(kind, rng):
    keras.utils.set_random_seed(0)
    model = MODELS[kind]()
    x = rng.normal(size=(16, 3, 4)).astype("float32")
    expected = model.predict(x, verbose=0)
    names = [layer.name for _, layer in walk(model)]
    with unique_names(model):
        opened = inlined(model, lambda layer: rule_of(layer) is not None, "test")
        graph = trace(opened)
        copy = build(graph)
    assert [layer.name for _, layer in walk(model)] == names
    np.testing.assert_array_equal(copy.predict(x, verbose=0), expected)
    kinds = {type(node.operation).__name__ for node in graph.nodes}
    assert not kinds & {"Block", "Positions", "Scaled", "TwoOutputs", "Sequential"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompressionWarning)  # nothing stays in float
        aware = quantize_aware(model)
    count = sum(v.shape.num_elements() for v in model.trainable_variables)
    assert sum(v.shape.num_elements() for v in aware.trainable_variables) == count
    final = finalize(calibrate(model, x))
    spread = np.ptp(expected)
    assert np.abs(final.predict(x, verbose=0) - expected).max() < 0.1 * spread


def test_names_that_are_used_twice_tell_the_path_and_filters_know_it():
    model = flat(Block(name="first"), sequential(Block(name="second")))
    aware = quantize_aware(model, {"first/theta": "w4a8"})
    kinds = {
        layer.name: type(layer.quantizer).__name__
        for layer in aware.layers
        if hasattr(layer, "quantizer")
    }
    second = next(name for name in kinds if name.endswith("second_theta"))
    assert kinds["theta"] == "LearnedStepQuantizer"
    assert kinds[second] == "UniformQuantizer"


def test_a_composite_trains_as_it_did():
    # `training=False` in its call's head is no order to leave dropout out.
    aware = quantize_aware(flat(Block()))
    x = np.ones((64, 3, 4), "float32")
    first, second = (np.asarray(aware(x, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 0.0


@serializable
class Decoder(layers.Layer):
    """Multiplies with the kernel of a layer that it does not call."""

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.parts = {"encoder": [encoder]}

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.parts["encoder"][0].kernel))

    def get_config(self):
        encoder = keras.saving.serialize_keras_object(self.parts["encoder"][0])
        return {**super().get_config(), "encoder": encoder}

    @classmethod
    def from_config(cls, config):
        encoder = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**{**config, "encoder": encoder})


def autoencoder(activation):
    inputs = keras.Input((6,), name="x")
    encoder = layers.Dense(3, activation, name="encoder")
    return keras.Model(inputs, Decoder(encoder, name="decoder")(encoder(inputs)))


@pytest.mark.sweep(2)
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_tied_weights_stay_tied(activation, rng):
    model = autoencoder(activation)
    x = rng.normal(size=(8, 6)).astype("float32")
    expected = model.predict(x, verbose=0)
    copy = build(trace(model))
    np.testing.assert_array_equal(copy.predict(x, verbose=0), expected)
    assert len(copy.trainable_variables) == len(model.trainable_variables)
    with pytest.warns(CompressionWarning, match="decoder"):
        aware = quantize_aware(model)
    assert len(aware.trainable_variables) == len(model.trainable_variables)
    aware.compile("sgd", "mse")
    aware.fit(x, x, verbose=0)
    before = aware.predict(x, verbose=0)
    spread = np.ptp(before)
    final = finalize(aware)
    assert np.abs(final.predict(x, verbose=0) - before).max() <= 0.02 * spread


def test_tied_weights_are_not_cut():
    inputs = keras.Input((6,), name="x")
    encoder = layers.Dense(8, "relu", name="encoder")
    hidden = layers.Dense(8, "relu", name="mid")(encoder(inputs))
    model = keras.Model(inputs, Decoder(encoder, name="decoder")(hidden))
    (fixed,) = (g.fixed for g in channel_groups(model) if "encoder" in g.made_by)
    assert "'decoder' uses" in str(fixed)
    with pytest.warns(CompressionWarning, match="encoder"):
        small = factorize(model, rank=2)
    assert len(small.trainable_variables) == len(model.trainable_variables) + 1


def test_a_subclassed_model_that_ties_weights_by_hand_is_refused():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__(name="tied")
            self.dense = layers.Dense(3, name="enc")

        def call(self, x):
            return ops.matmul(self.dense(x), ops.transpose(self.dense.kernel))

    model = Tied()
    model(np.zeros((1, 6), "float32"))
    with pytest.raises(InvalidArgumentError, match=r"'tied'.*enc/kernel"):
        quantize_aware(model)
