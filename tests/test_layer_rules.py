"""MACs by hand: what the table of layer types says about costs."""

import keras
import pytest
from keras import layers

from tfcompress.layers import LayerRule, macs, register_layer_rule, rule_of


def model(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        ((7,), layers.Dense(5), 7 * 5),
        ((3, 7), layers.Dense(5), 3 * 7 * 5),
        ((8, 8, 3), layers.Conv2D(4, 3), 6 * 6 * 3 * 3 * 3 * 4),
        ((8, 8, 4), layers.Conv2D(6, 3, groups=2), 6 * 6 * 3 * 3 * 2 * 6),
        ((8, 8, 3), layers.Conv2D(4, 3, strides=2, padding="same"), 4 * 4 * 27 * 4),
        ((9, 3), layers.Conv1D(4, 2), 8 * 2 * 3 * 4),
        ((4, 4, 4, 2), layers.Conv3D(3, 2), 27 * 8 * 2 * 3),
        ((8, 8, 3), layers.DepthwiseConv2D(3, depth_multiplier=2), 36 * 9 * 3 * 2),
        ((8, 8, 3), layers.SeparableConv2D(5, 3), 36 * (9 * 3 + 3 * 5)),
        ((4, 4, 3), layers.Conv2DTranspose(5, 2, strides=2), 16 * 4 * 3 * 5),
        ((6, 4), layers.LSTM(5), 6 * (4 + 5) * 4 * 5),
        ((6, 4), layers.GRU(5), 6 * (4 + 5) * 3 * 5),
        ((6, 4), layers.SimpleRNN(5), 6 * (4 + 5) * 5),
        ((6, 4), layers.EinsumDense("abc,cde->abde", (None, 2, 3)), 6 * 4 * 2 * 3),
        ((6, 2, 3), layers.EinsumDense("abde,deo->abo", (None, 5)), 6 * 2 * 3 * 5),
        ((6, 2, 4), layers.EinsumDense("...x,xy->...y", 5), 6 * 2 * 4 * 5),
        ((6, 4), layers.EinsumDense("abc,bd->adc", (7, 4)), 7 * 4 * 6),
        ((8, 8, 3), layers.MaxPooling2D(), 0),
        ((8, 8, 3), layers.BatchNormalization(), 0),
    ],
)
def test_macs_of_a_layer(shape, layer, expected):
    assert macs(model(shape, layer)) == expected


def test_macs_of_attention():
    queries, keys = keras.Input((6, 4)), keras.Input((5, 3))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=7, value_dim=8)
    network = keras.Model([queries, keys], layer(queries, keys))
    projections = 6 * 4 * 14 + 5 * 3 * 14 + 5 * 3 * 16 + 6 * 16 * 4
    scores_and_context = 6 * 5 * 2 * (7 + 8)
    assert macs(network) == projections + scores_and_context


def test_macs_of_a_layer_that_returns_its_states():
    inputs = keras.Input((6, 4))
    outputs = layers.LSTM(5, return_state=True)(inputs)
    assert macs(keras.Model(inputs, outputs)) == 6 * (4 + 5) * 4 * 5


def test_a_shared_layer_counts_each_time():
    inputs = keras.Input((4,))
    shared = layers.Dense(4)
    assert macs(keras.Model(inputs, shared(shared(inputs)))) == 2 * 4 * 4


def test_subclasses_inherit_until_they_have_a_rule():
    class Scaled(layers.Dense):
        pass

    assert rule_of(Scaled(2)).layer_type is layers.Dense
    register_layer_rule(LayerRule(Scaled, macs=lambda layer, inputs, output: 11))
    assert macs(model((3,), Scaled(2))) == 11
    assert rule_of(layers.Dense(2)).layer_type is layers.Dense
