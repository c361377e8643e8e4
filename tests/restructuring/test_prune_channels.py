"""PruneChannels: channels fade in fit and are then removed."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.restructuring.zoo import make, randomize
from tfcompress.channels.callback import PruneChannels
from tfcompress.channels.dependencies import channel_groups
from tfcompress.channels.shrink import shrink
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.layers import macs
from tfcompress.pruning.callback import PruneWeights
from tfcompress.schedules import PolynomialSparsity


def small_resnet():
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="stem_norm")(x))
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="in")(x)
    y = layers.BatchNormalization(name="out_norm")(
        layers.Conv2D(16, 3, padding="same", name="out")(y)
    )
    x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    model = randomize(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def data(n=64):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 8, 8, 2)), rng.normal(size=(n, 3))


def test_fit_then_shrink_gives_the_same_outputs():
    model = small_resnet()
    x, y = data()
    prune = PruneChannels(PolynomialSparsity(0.0, 0.5, frequency=2), round_to=4)
    before = macs(model)
    model.fit(x, y, epochs=3, batch_size=16, verbose=0, callbacks=[prune])
    smaller = shrink(model)
    groups = {g.name: g.channels for g in channel_groups(smaller)}
    assert groups == {"stem": 8, "in": 8, "head": 3}
    assert macs(smaller) < 0.4 * before
    np.testing.assert_allclose(smaller(x), model(x), atol=1e-5)
    assert model.get_layer("stem").kernel.constraint is None


def test_sparsity_follows_the_schedule():
    model = small_resnet()
    x, y = data()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = self.model.get_layer("in").kernel.numpy()
            seen.append(int((np.abs(kernel).sum(axis=(0, 1, 2)) == 0).sum()))

    prune = PruneChannels(
        PolynomialSparsity(0.0, 0.5, begin_step=0, end_step=6, power=1, frequency=2),
        round_to=1,
        filters="in",
    )
    model.fit(x, y, epochs=2, batch_size=16, verbose=0, callbacks=[prune, Watch()])
    # 0, 1/6, 2/6 and 3/6 of sixteen channels at steps 0, 2, 4 and 6.
    assert seen == [0, 0, 3, 3, 5, 5, 8, 8]


def test_a_second_fit_goes_on_from_the_zeros():
    model = small_resnet()
    x, y = data()
    model.fit(x, y, verbose=0, callbacks=[PruneChannels(0.5)])
    zeros = model.get_layer("in").kernel.numpy() == 0
    assert zeros.mean() >= 0.5
    model.fit(x, y, verbose=0, callbacks=[PruneChannels(0.5)])
    np.testing.assert_array_equal(model.get_layer("in").kernel.numpy() == 0, zeros)


def test_several_steps_per_execution():
    model = small_resnet()
    model.compile("sgd", "mse", steps_per_execution=2)
    x, y = data()
    schedule = PolynomialSparsity(0.0, 0.5, begin_step=1, end_step=5, frequency=2)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[PruneChannels(schedule)])
    assert shrink(model).get_layer("in").filters == 8


def test_the_channel_pattern_of_weight_pruning_is_removed_too():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(16, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="wide"),
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = data()
    prune = PruneWeights(0.5, pattern="channel", filters="conv|wide")
    model.fit(x, y, epochs=2, batch_size=16, verbose=0, callbacks=[prune])
    smaller = shrink(model)
    assert smaller.get_layer("conv").filters == 8
    assert smaller.get_layer("wide").units == 16
    np.testing.assert_allclose(smaller(x), model(x), atol=1e-5)


def test_bad_arguments():
    with pytest.raises(InvalidArgumentError, match="Unknown criterion for channels"):
        PruneChannels(0.5, criterion="size")
    with pytest.raises(InvalidArgumentError, match="`schedule` is not a schedule"):
        PruneChannels(schedule=[0.5])
    model, inputs = make("transformer")
    model.compile("sgd", "mse")
    prune = PruneChannels(0.5, filters="table")
    with pytest.raises(InvalidArgumentError, match="no channels that PruneChannels"):
        model.fit(inputs, np.ones((3, 2)), verbose=0, callbacks=[prune])
