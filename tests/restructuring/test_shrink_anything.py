"""shrink of recurrent nets, layers made of layers and models at each step."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.graph_macs import graph_macs
from tfcompress import (
    CompressionWarning,
    InvalidArgumentError,
    LayerRule,
    PruneChannels,
    PruneWeights,
    channel_groups,
    factorize,
    macs,
    register_layer_rule,
    shrink,
)


@keras.saving.register_keras_serializable("test_shrink_anything")
class TransformerBlock(layers.Layer):
    def __init__(self, width=8, heads=4, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(heads, width)
        self.feed = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(width)])
        self.before, self.after = (
            layers.LayerNormalization(),
            layers.LayerNormalization(),
        )
        self.dropout = layers.Dropout(0.1)

    def call(self, x, training=False):
        y = self.dropout(self.attention(x, x), training=training)
        y = self.before(x + y)
        return self.after(y + self.feed(y))


@keras.saving.register_keras_serializable("test_shrink_anything")
class TokensAndPositions(layers.Layer):
    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(20, width)
        self.positions = layers.Embedding(10, width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(0, 10))


def text_classifier():
    inputs = keras.Input((10,), dtype="int32")
    x = TransformerBlock(name="block")(TokensAndPositions(name="embed")(inputs))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Dense(6, "relu")(x)))


def bidirectional():
    inputs = keras.Input((6, 8))
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(inputs)
    x = layers.Bidirectional(layers.GRU(12))(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def cells():
    inputs = keras.Input((6, 5))
    x = layers.RNN(layers.GRUCell(14), return_sequences=True)(inputs)
    x = layers.RNN([layers.LSTMCell(16), layers.SimpleRNNCell(12)])(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def video():
    picture = [
        keras.Input((8, 8, 8)),
        layers.Conv2D(16, 3),
        layers.BatchNormalization(),
    ]
    picture += [layers.ReLU(), layers.Conv2D(12, 3), layers.GlobalAveragePooling2D()]
    inputs = keras.Input((3, 8, 8, 3))
    x = layers.TimeDistributed(layers.Conv2D(8, 3, padding="same"))(inputs)
    x = layers.TimeDistributed(keras.Sequential(picture))(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GRU(9)(x)))


def nested():
    inner = keras.Sequential([keras.Input((7,)), layers.Dense(15, "relu")])
    inputs = keras.Input((7,))
    return keras.Model(inputs, layers.Dense(5)(layers.Dense(11)(inner(inputs))))


MODELS = [text_classifier, bidirectional, cells, video, nested]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.filterwarnings("ignore:These channels are left:UserWarning")
def test_half_of_the_macs_by_the_traced_graph(make):
    keras.utils.set_random_seed(0)
    model = make()
    smaller = shrink(model, macs=0.5, round_to=1)
    assert graph_macs(smaller) == macs(smaller)
    assert graph_macs(smaller) / graph_macs(model) == pytest.approx(0.5, rel=0.05)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("make", [bidirectional, cells, video])
def test_zero_units_go_and_the_outputs_stay(make):
    keras.utils.set_random_seed(0)
    model = make()
    model.compile("sgd", "mse")
    shapes = [(4, *t.shape[1:]) for t in model.inputs]
    x = np.random.default_rng(0).normal(size=shapes[0]).astype("float32")
    model.fit(
        x, np.zeros((4, 3)), verbose=0, callbacks=[PruneChannels(0.5, round_to=1)]
    )
    smaller = shrink(model)
    assert smaller.count_params() < model.count_params()
    np.testing.assert_allclose(smaller(x), model(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore:These channels are left:UserWarning")
def test_a_layer_that_calls_another_on_a_constant_loses_no_weights():
    model = text_classifier()
    smaller = shrink(model, macs=0.5, round_to=1)
    tables = [one for one in smaller.layers if isinstance(one, layers.Embedding)]
    # Words and positions: as many as before, and with as many channels as each other.
    assert [table.embeddings.shape[0] for table in tables] == [20, 10]
    assert tables[0].embeddings.shape[1] == tables[1].embeddings.shape[1] < 8
    assert all(table.embeddings.trainable for table in tables)
    tied = [g for g in channel_groups(model) if "tied: embed/" in str(g)]
    assert str(tied[0]).count("embed/embedding") == 3  # the name, and both tables


def test_composites_may_hold_layers_of_the_same_names():
    x = inputs = keras.Input((10,), dtype="int32")
    x = TokensAndPositions(name="embed")(x)
    for name in ("first", "second"):
        x = TransformerBlock(name=name)(x)
        block = x._keras_history.operation
        for position, layer in enumerate(block._layers):
            layer.name = f"part_{position}"
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    smaller = shrink(model, macs=0.6, round_to=1)
    assert macs(smaller) == pytest.approx(0.6 * macs(model), rel=0.05)


def test_units_and_heads_are_not_rounded():
    smaller = shrink(
        keras.Sequential([keras.Input((6, 5)), layers.LSTM(20), layers.Dense(3)]), 0.5
    )
    assert smaller.layers[1].units == 10


def test_the_largest_divisor_of_round_to_that_meets_the_target_is_taken():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(12), layers.Dense(3)])
    with pytest.warns(CompressionWarning, match="round_to=8: .*multiples of 2"):
        smaller = shrink(model, sparsity=0.5, round_to=8)
    assert smaller.layers[1].units == 6


def conv_lstm():
    return keras.Sequential(
        [
            keras.Input((4, 6, 3)),
            layers.ConvLSTM1D(8, 3, name="keeper"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"sparsity": 0.5}])
@pytest.mark.filterwarnings("ignore:These channels are left:UserWarning")
def test_what_keeps_the_work_is_named(target):
    model = conv_lstm()
    with pytest.raises(InvalidArgumentError, match=r"keeper.*no channel rule.*MACs"):
        shrink(model, **target)
    assert any(group.name == "keeper" for group in channel_groups(model))


@keras.saving.register_keras_serializable("test_shrink_anything")
class Mine(layers.Layer):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")

    def call(self, x):
        return x @ self.w

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.parametrize("name", ["mine", "dense", "same", "recurrent", "spatial"])
def test_the_name_of_a_rule_means_nothing(name, monkeypatch):
    from tfcompress.layers import rules

    def rule(call):
        made = call.ids.fresh(call.layer.units)
        call.weight(
            call.layer.w, {0: call.inputs[0].get(1)}, "input", *call.node.inputs
        )
        call.weight(call.layer.w, {1: made}, "output")
        call.resize(lambda count: {"units": count(made)}, made)
        call.outputs[0] = {1: made}

    rule.__name__ = name
    monkeypatch.setattr(rules, "_rules", dict(rules._rules))
    register_layer_rule(LayerRule(Mine, channels=rule))
    stack = [keras.Input((3,)), layers.Dense(8, name="a"), Mine(4), layers.Dense(2)]
    model = keras.Sequential(stack)
    kernel, bias = model.layers[0].get_weights()
    kernel[:, :4] = 0
    model.layers[0].set_weights([kernel, bias])
    assert shrink(model).get_layer("a").units == 4


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_scale"])
def test_one_criterion_has_two_names_everywhere(name):
    stack = [keras.Input((4,)), layers.Dense(16), layers.BatchNormalization()]
    model = keras.Sequential([*stack, layers.Dense(4)])
    model.layers[1].gamma.assign(np.arange(16.0) + 1)
    smaller = shrink(model, 0.5, criterion=name)
    assert ops.min(smaller.layers[2].gamma) == 9
    assert PruneChannels(0.5, criterion=name).criterion == name
    assert (
        type(PruneWeights(0.5, criterion=name).criterion).__name__ == "BatchNormScale"
    )


@pytest.mark.parametrize("conv", ["tucker", "spatial"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_factorize_comes_near_its_target_from_below(conv, share):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((8, 8, 32)), layers.Conv2D(48, 3), layers.Conv2D(32, 3)]
    model = keras.Sequential([*stack, layers.Flatten(), layers.Dense(10)])
    left = macs(factorize(model, macs=share, conv=conv)) / macs(model)
    assert 0.97 * share < left <= share


def test_all_of_the_macs_is_the_model_as_it_is():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1), layers.Dense(5)])
    x = np.ones((2, 1), "float32")
    for target in ({"macs": 1.0}, {"size": 1.0}):
        np.testing.assert_array_equal(factorize(model, **target)(x), model(x))
