"""The dependency view: what is tied, what is fixed and why."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.restructuring.zoo import make
from tfcompress.channels.dependencies import analyse, channel_groups
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.layers import LayerRule, register_layer_rule


def lines(model):
    return [str(group) for group in channel_groups(model)]


def test_residual_additions_tie_channels():
    model, _ = make("residual")
    assert lines(model) == [
        "stem: 12 channels; tied: stem, out0, out1; read by in0, in1, head",
        "in0: 8 channels; read by out0",
        "in1: 8 channels; read by out1",
        "head: 3 channels; fixed: is an output of the model",
    ]


def test_concatenation_keeps_its_parts_apart():
    model, _ = make("dense_blocks")
    assert lines(model)[:2] == [
        "c0: 6 channels; read by c1, c2, head",
        "c1: 6 channels; read by c2, head",
    ]


def test_a_gate_is_tied_to_what_it_gates():
    model, _ = make("squeeze_excite")
    assert lines(model)[0] == (
        "conv: 12 channels; tied: conv, excite; read by squeeze, head"
    )


def test_nested_layers_have_paths():
    model, _ = make("nested")
    assert lines(model)[0] == (
        "outer_conv: 8 channels; tied: outer_conv, inner/inner_conv; "
        "read by inner/inner_conv, head"
    )


def test_groups_of_a_convolution():
    few = channel_groups(make("grouped_few")[0])
    assert [(g.name, g.channels, g.width) for g in few[:2]] == [
        ("first", 6, 2),
        ("grouped", 4, 2),
    ]
    many = channel_groups(make("grouped_many")[0])
    assert [(g.name, g.channels, g.width) for g in many[:1]] == [("first", 8, 2)]


def test_a_dense_layer_cut_into_an_image_loses_all_pixels_of_a_channel():
    (group, *_) = channel_groups(make("generator")[0])
    assert str(group) == "project: 8 channels of 4 positions; read by up"


def test_heads_of_attention():
    groups = {g.name: g for g in channel_groups(make("attention")[0])}
    assert groups["attend"].channels == 4
    assert groups["embed"].made_by == ("embed", "attend")


def test_channels_of_inputs_and_outputs_are_fixed_by_name():
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="same_width")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="end")(layers.Add()([inputs, x])))
    assert lines(model) == [
        "same_width: 6 channels; read by same_width, end; "
        "fixed: is an input of the model",
        "end: 2 channels; fixed: is an output of the model",
    ]


def around(layer):
    """A Dense layer before and after `layer`."""
    inputs = keras.Input((4,))
    x = layer(layers.Dense(8, name="before")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="after")(x))


def test_a_lambda_fixes_its_channels_by_name():
    model = around(layers.Lambda(lambda x: x * 2, name="twice"))
    assert lines(model)[0] == (
        "before: 8 channels; fixed: feeds 'twice' (Lambda), which has no channel rule; "
        "register_layer_rule(LayerRule(Lambda, channels='same')) if it treats each "
        "channel on its own"
    )


class Twice(keras.Layer):
    def call(self, x):
        return x * 2


class Thrice(keras.Layer):
    def call(self, x):
        return x * 3


def test_a_custom_layer_can_be_taught():
    fixed = channel_groups(around(Twice(name="twice")))[0]
    assert "feeds 'twice' (Twice), which has no channel rule" in fixed.fixed[0]
    register_layer_rule(LayerRule(Twice, channels="same"))
    register_layer_rule(LayerRule(Thrice, channels=taught))
    for layer in (Twice(name="twice"), Thrice(name="twice")):
        group = channel_groups(around(layer))[0]
        assert (group.fixed, group.read_by) == ((), ("after",))


def taught(call):
    """A rule given as a function."""
    call.outputs[0] = dict(call.inputs[0])


def test_subclasses_inherit_until_they_have_a_rule():
    class Scaled(layers.Dense):
        pass

    assert channel_groups(around(Scaled(6, name="s")))[1].channels == 6
    register_layer_rule(LayerRule(Scaled))
    groups = channel_groups(around(Scaled(6, name="s")))
    assert [g.name for g in groups] == ["before", "s", "after"]
    assert groups[0].fixed[0].startswith("feeds 's' (Scaled), which has no channel")
    assert groups[1].fixed[0] == "comes from 's' (Scaled), which has no channel rule"


def test_an_unknown_rule_name_is_an_error():
    class Odd(Twice):
        pass

    register_layer_rule(LayerRule(Odd, channels="sideways"))
    with pytest.raises(InvalidArgumentError, match="Received: 'sideways'"):
        channel_groups(around(Odd()))


def test_softmax_inside_the_model_fixes_its_channels():
    groups = channel_groups(around(layers.Softmax(name="mix")))
    assert groups[0].fixed == ("is mixed with other channels by 'mix' (Softmax)",)
    groups = channel_groups(around(layers.Dense(8, activation="softmax", name="mix")))
    assert groups[1].fixed == (
        "is mixed with other channels by the softmax 'mix' (Dense)",
    )


def test_unknown_functions_fix_channels():
    inputs = keras.Input((4,))
    x = layers.Dense(8, name="before")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(ops.flip(x, axis=1)))
    (fixed,) = channel_groups(model)[0].fixed
    # Its number depends on the tests before.
    assert re.match(r"feeds 'flip(_\d+)?' \(Flip\), which has no channel rule", fixed)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x[:, 2:], "is indexed by 'get_item"),
        (lambda x: ops.mean(x, axis=1, keepdims=True), "is reduced over by 'mean"),
        (lambda x: x + np.ones(8, "float32"), "is combined with unknown channels"),
        (lambda x: x * x[:, :1], "is indexed by"),
    ],
)
def test_functions_that_need_all_channels(function, reason):
    inputs = keras.Input((4,))
    x = function(layers.Dense(8, name="before")(inputs))
    group = channel_groups(keras.Model(inputs, layers.Dense(2)(x)))[0]
    assert reason in group.fixed[0]


def test_a_shared_layer_is_tied_to_itself():
    groups = channel_groups(make("siamese")[0])
    assert [(g.name, g.channels, g.fixed) for g in groups[:2]] == [
        ("shared", 8, ()),
        ("deeper", 10, ()),
    ]


def test_a_layer_shared_between_different_places_ties_them():
    inputs = keras.Input((4,))
    shared = layers.Dense(8, name="shared")
    x = shared(layers.Dense(8, name="a")(shared(layers.Dense(8, name="b")(inputs))))
    model = keras.Model(inputs, layers.Dense(1, name="end")(x))
    groups = {g.name: g for g in channel_groups(model)}
    assert sorted(groups["b"].made_by) == ["a", "b"]
    assert groups["b"].read_by == ("shared",)
    assert groups["shared"].read_by == ("a", "end")


def test_a_layer_shared_with_an_axis_that_stays_keeps_its_inputs():
    inputs = keras.Input((6, 4))
    x = layers.Dense(6, name="a")(inputs)
    shared = layers.Dense(6, name="shared")
    y = layers.Concatenate()([shared(x), shared(layers.Permute((2, 1))(x))])
    groups = channel_groups(keras.Model(inputs, layers.Dense(1)(y)))
    (group,) = [g for g in groups if "a" in g.made_by]
    assert "is read by 'shared', which also reads what stays" in group.fixed


def test_batch_dependent_shapes_are_left_alone():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    x = layers.Reshape((-1, 8))(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    group = analyse(model).groups[0]
    assert (group.name, group.channels, group.fixed) == ("conv", 8, ())


def test_channels_first():
    inputs = keras.Input((3, 4, 4))
    x = layers.Permute((2, 3, 1))(inputs)
    x = layers.Dense(8, name="first")(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.BatchNormalization(axis=1)(x)
    a = layers.Flatten(data_format="channels_first")(x)
    b = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    outputs = [layers.Dense(2, name="a")(a), layers.Dense(2, name="b")(b)]
    assert lines(keras.Model(inputs, outputs))[0] == ("first: 8 channels; read by b, a")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_bad_models():
    model = Subclassed()
    model(np.ones((1, 2)))
    with pytest.raises(InvalidArgumentError, match="is a subclassed model"):
        channel_groups(model)
    with pytest.raises(InvalidArgumentError, match="has not been built"):
        channel_groups(keras.Sequential([layers.Dense(2)]))


def test_all_groups_print_as_lines_and_show_as_a_table():
    model, _ = make("residual")
    groups = channel_groups(model)
    assert str(groups).splitlines() == lines(model)
    assert groups == list(groups)
    page = groups._repr_html_()
    assert page.count("<tr>") == 1 + len(groups)
    assert "<th>stem</th><td>12</td><td>stem, out0, out1</td>" in page
    assert "<td>is an output of the model</td>" in page
