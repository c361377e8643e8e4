"""shrink: targets, limits, criteria, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.restructuring.zoo import make, randomize
from tfcompress.channels.dependencies import ChannelGroup, channel_groups
from tfcompress.channels.shrink import shrink
from tfcompress.channels.widths import Widths
from tfcompress.core.errors import CompressionWarning, InvalidArgumentError
from tfcompress.layers import macs
from tfcompress.pruning.criteria import Magnitude


def mlp(*units):
    return randomize(
        keras.Sequential(
            [
                keras.Input((16,)),
                *(
                    layers.Dense(n, activation="relu", name=f"d{i}")
                    for i, n in enumerate(units)
                ),
                layers.Dense(4, name="head"),
            ]
        )
    )


def widths_of(model):
    return [layer.units for layer in model.layers if isinstance(layer, layers.Dense)]


def test_sparsity_is_shared_by_all_groups():
    model = mlp(64, 32)
    before = [w.copy() for w in model.get_weights()]
    smaller = shrink(model, sparsity=0.5)
    assert widths_of(smaller) == [32, 16, 4]
    assert [layer.name for layer in smaller.layers][1:] == ["d0", "d1", "head"]
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
    assert widths_of(model) == [64, 32, 4]


def test_the_strongest_channels_survive_in_their_order():
    model = mlp(8)
    kernel, bias = model.layers[0].get_weights()
    strength = np.array([5, 1, 7, 2, 6, 3, 8, 4])
    kernel = np.sign(kernel) * strength
    model.layers[0].set_weights([kernel, bias])
    smaller = shrink(model, sparsity=0.5, round_to=1)
    kept = [0, 2, 4, 6]
    np.testing.assert_array_equal(
        smaller.get_layer("d0").get_weights()[0], kernel[:, kept]
    )
    np.testing.assert_array_equal(
        smaller.get_layer("head").get_weights()[0],
        model.get_layer("head").get_weights()[0][kept],
    )


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_a_target_in_macs(share):
    model = mlp(128, 96, 64)
    smaller = shrink(model, macs=share)
    assert macs(smaller) / macs(model) == pytest.approx(share, rel=0.05)
    assert all(n % 8 == 0 for n in widths_of(smaller)[:-1])


def test_a_target_in_macs_through_attention():
    inputs = keras.Input((16, 32))
    x = layers.Dense(64, name="embed")(inputs)
    for i in range(2):
        x = layers.Add()([x, layers.MultiHeadAttention(8, 8, name=f"a{i}")(x, x)])
        y = layers.Dense(128, activation="gelu", name=f"wide{i}")(x)
        x = layers.Add()([x, layers.Dense(64, name=f"narrow{i}")(y)])
    model = randomize(keras.Model(inputs, layers.Dense(4, name="head")(x)))
    smaller = shrink(model, macs=0.5)
    assert macs(smaller) / macs(model) == pytest.approx(0.5, rel=0.05)
    assert smaller.get_layer("a0").num_heads < 8
    assert smaller.get_layer("a0").key_dim == 8


def test_one_is_all_of_it():
    assert macs(shrink(mlp(16), macs=1.0)) == macs(mlp(16))
    assert macs(shrink(mlp(16), sparsity=0.0)) == macs(mlp(16))


def test_a_sparsity_that_rounding_cannot_meet_takes_the_nearest_rounding():
    with pytest.warns(CompressionWarning) as told:
        smaller = shrink(mlp(16), sparsity=0.25, round_to=8)
    message = next(w.message for w in told if w.category is CompressionWarning)
    assert str(message) == (
        "sparsity=0.25 cannot be met with round_to=8: the widths that remain are "
        "multiples of 4 (sparsity=0.25)."
    )
    assert widths_of(smaller) == [12, 4]
    assert widths_of(shrink(mlp(16), sparsity=0.25, round_to=4)) == [12, 4]


def test_macs_that_cannot_be_met_name_the_nearest():
    with pytest.raises(
        InvalidArgumentError, match=r"macs=0.1 cannot be met.*macs=0\.125"
    ):
        shrink(mlp(16), macs=0.1, round_to=8)


def test_widths_round_and_keep_limits():
    group = ChannelGroup("conv", 20, ("conv",), ())
    assert Widths(group, 8, 1.0).allowed == [8, 16, 20]
    assert Widths(group, 1, 0.3).allowed == list(range(14, 21))
    assert Widths(group, 8, 0.0).allowed == [20]
    # Four positions to a channel: every second count makes a multiple of eight.
    wide = ChannelGroup("conv", 5, ("conv",), (), width=4)
    assert Widths(wide, 8, 1.0).allowed == [2, 4, 5]


def test_filters_choose_layers():
    smaller = shrink(mlp(32, 32), sparsity=0.5, filters="d1")
    assert widths_of(smaller) == [32, 16, 4]
    smaller = shrink(mlp(32, 32), sparsity=0.5, filters=lambda x: x.name == "d0")
    assert widths_of(smaller) == [16, 32, 4]


def test_limits_keep_layers():
    smaller = shrink(
        mlp(32, 32, 32), macs=0.55, max_layer_sparsity={"d0": 0.0, "d1": 0.3}
    )
    assert widths_of(smaller)[:2] == [32, 24]
    assert widths_of(smaller)[2] < 24
    with pytest.raises(InvalidArgumentError, match=r"sparsity=0.25, the nearest"):
        shrink(mlp(32, 32), sparsity=0.5, max_layer_sparsity=0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"Received: 1.0. Expected: a number in \[0, 1\)"),
        ({"sparsity": -0.1}, "Received: -0.1"),
        ({"macs": 0.0}, r"Expected: a number in \(0, 1\]"),
        ({"sparsity": 0.5, "macs": 0.5}, "Received two targets"),
        ({"sparsity": 0.5, "round_to": 0}, "Expected: a positive integer"),
        ({"sparsity": 0.5, "criterion": "l3"}, "Received: 'l3'. Expected: one of"),
        ({"sparsity": 0.5, "criterion": Magnitude}, "Unknown criterion"),
        ({"sparsity": 0.5, "filters": "nope"}, "no layer that makes channels"),
        ({"sparsity": 0.5, "filters": "head"}, "fixed: is an output of the model"),
        ({"sparsity": 0.5, "filters": "("}, "not a valid regular expression"),
        (
            {"sparsity": 0.5, "max_layer_sparsity": 2},
            "numbers in [0, 1]".replace("[", r"\["),
        ),
        ({"sparsity": 0.5, "max_layer_sparsity": {"x": 0.5}}, "'x', which matches no"),
        ({"sparsity": 0.5, "max_layer_sparsity": {"(": 0.5}}, "no valid regular"),
        ({"sparsity": 0.5, "criterion": "taylor"}, "needs data to take gradients"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        shrink(mlp(16), **arguments)


def test_nan_weights_are_refused_by_name():
    model = mlp(16)
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.arange(16) == 3, np.nan, kernel.numpy()))
    with pytest.raises(InvalidArgumentError, match=r"d0/kernel' is not a number"):
        shrink(model, sparsity=0.5)
    with pytest.raises(InvalidArgumentError, match="16 NaN of 256 values"):
        shrink(model)


def test_a_model_in_which_nothing_can_go():
    with pytest.raises(InvalidArgumentError, match="no channels that can be removed"):
        shrink(mlp(), sparsity=0.5)
    with pytest.raises(InvalidArgumentError, match=r"macs=1, the nearest"):
        shrink(mlp(), macs=0.5)
    assert macs(shrink(mlp())) == macs(mlp())


def test_batch_norm_criterion_keeps_large_scales():
    model, _ = make("plain")
    norm = next(x for x in model.layers if isinstance(x, layers.BatchNormalization))
    gamma = np.linspace(0.1, 1.6, 16)[::-1].copy()
    norm.gamma.assign(gamma)
    smaller = shrink(model, sparsity=0.5, criterion="batch_norm")
    kept = smaller.get_layer(norm.name).gamma.numpy()
    np.testing.assert_allclose(kept, gamma[:8], rtol=1e-6)


def test_random_criterion_is_the_same_each_time():
    model = mlp(32)
    kernels = [
        shrink(model, sparsity=0.5, criterion="random").get_layer("d0").get_weights()[0]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*kernels)
    largest = shrink(model, sparsity=0.5).get_layer("d0").get_weights()[0]
    assert np.abs(kernels[0] - largest).max() > 0


def test_an_object_with_a_score_ranks_channels():
    class Last:
        def score(self, weights):
            return weights * 0 + np.arange(weights.shape[-1], dtype="float32")

    model = mlp(32)
    smaller = shrink(model, sparsity=0.5, criterion=Last())
    np.testing.assert_array_equal(
        smaller.get_layer("d0").kernel, model.get_layer("d0").kernel.numpy()[:, 16:]
    )
    assert widths_of(shrink(model, sparsity=0.5, criterion=Magnitude(p=2))) == [16, 4]


def test_taylor_keeps_what_the_loss_depends_on():
    model = mlp(16)
    head = model.get_layer("head").kernel
    # Half of the channels are strong but unread, so the loss does not see them.
    head.assign(head.numpy() * (np.arange(16) >= 8)[:, None])
    model.get_layer("d0").bias.assign(np.full(16, 1.0))
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 16)), rng.normal(size=(64, 4))
    before = [w.copy() for w in model.get_weights()]
    smaller = shrink(model, sparsity=0.5, criterion="taylor", data=(x, y))
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(smaller(x), model(x), atol=1e-5)
    np.testing.assert_array_equal(
        smaller.get_layer("d0").kernel, model.get_layer("d0").kernel.numpy()[:, 8:]
    )


def test_taylor_needs_a_loss_and_data():
    model = mlp(16)
    data = (np.ones((4, 16)), np.ones((4, 4)))
    with pytest.raises(InvalidArgumentError, match=r"model.compile\(loss=...\) before"):
        shrink(model, sparsity=0.5, criterion="taylor", data=data)
    model.compile("sgd", "mse")
    empty = (np.ones((0, 16)), np.ones((0, 4)))
    for data in (empty, tf.data.Dataset.from_tensor_slices(empty).batch(4)):
        with pytest.raises(InvalidArgumentError, match="at least one batch"):
            shrink(model, sparsity=0.5, criterion="taylor", data=data)


def test_settings_of_layers_survive():
    policy = keras.DTypePolicy("mixed_float16")
    inputs = keras.Input((8,))
    x = layers.Dense(
        16,
        kernel_regularizer="l2",
        kernel_initializer="he_normal",
        dtype=policy,
        name="a",
    )(inputs)
    x = layers.Dense(16, trainable=False, name="b")(x)
    model = keras.Model(inputs, layers.Dense(2, name="c")(x))
    smaller = shrink(model, sparsity=0.5)
    first, second = smaller.get_layer("a"), smaller.get_layer("b")
    assert (first.kernel_regularizer.l2, first.dtype_policy.name) == (
        model.get_layer("a").kernel_regularizer.l2,
        "mixed_float16",
    )
    assert (second.units, second.trainable) == (8, False)
    assert smaller.name == model.name


def test_pretrained_embeddings_given_as_an_initializer():
    table = np.random.default_rng(0).normal(size=(10, 16)).astype("float32")
    inputs = keras.Input((3,), dtype="int32")
    start = keras.initializers.Constant(table)
    x = layers.Embedding(10, 16, embeddings_initializer=start, name="table")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    smaller = shrink(model, sparsity=0.5)
    best = np.sort(np.argsort(-np.abs(table).sum(axis=0))[:8])
    np.testing.assert_array_equal(smaller.get_layer("table").embeddings, table[:, best])


def test_a_model_can_be_shrunk_again():
    model = mlp(64, 64)
    once = shrink(model, sparsity=0.5)
    assert widths_of(shrink(once, sparsity=0.5)) == [16, 16, 4]
    assert [g.channels for g in channel_groups(once)] == [32, 32, 4]


def test_channels_that_stay_for_want_of_a_rule_are_named():
    inputs = keras.Input((4,))
    x = layers.Dense(16, name="before")(inputs)
    x = layers.Lambda(lambda x: x * 2, name="twice")(x)
    x = layers.Dense(16, name="after")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    with pytest.warns(CompressionWarning, match=r"before \(feeds 'twice' \(Lambda\)"):
        smaller = shrink(model, sparsity=0.5)
    assert widths_of(smaller) == [16, 8, 2]
    with pytest.raises(
        InvalidArgumentError, match=r"LayerRule\(Lambda, channels='same"
    ):
        shrink(model, sparsity=0.5, filters="before")
