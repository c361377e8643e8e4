"""PruneWeights with sparse and dense phases in turns."""

import keras
import numpy as np
import pytest

from tfcompress import AlternatingSparsity, PruneWeights

EPOCHS, STEPS = 7, 8


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16 * STEPS, 12)).astype("float32")
    return x, (x @ rng.normal(size=(12, 4))).astype("float32")


def network():
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(16, "relu"), layers.Dense(4)]
    )
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model


class Watch(keras.callbacks.Callback):
    """Notes which weights are there after each epoch; may end the fit early."""

    def __init__(self, last=None):
        super().__init__()
        self.last, self.present = last, []

    def on_epoch_end(self, epoch, logs=None):
        kernels = [layer.kernel.numpy() for layer in self.model.layers]
        self.present.append(np.concatenate([k.ravel() for k in kernels]) != 0)
        self.model.stop_training = epoch == self.last


def fit(model, data, first=0, last=None):
    # An epoch for each of the five phases, between a dense epoch and a last one.
    schedule = AlternatingSparsity(0.75, 3, begin_step=STEPS, end_step=6 * STEPS)
    watch = Watch(last)
    callbacks = [PruneWeights(schedule), watch]
    model.fit(
        *data, 16, EPOCHS, 0, callbacks=callbacks, shuffle=False, initial_epoch=first
    )
    return watch.present


def test_what_was_pruned_comes_back_and_is_judged_anew(data):
    present = fit(network(), data)
    shares = [1 - one.mean() for one in present]
    dense = [shares[i] for i in (0, 2, 4)]
    assert max(dense) < 0.05
    assert [shares[i] for i in (1, 3, 5, 6)] == pytest.approx([0.75] * 4, abs=0.01)
    assert (present[3] & ~present[1]).any()
    assert (present[5] == present[6]).all()


@pytest.mark.filterwarnings("ignore:PruneWeights")
@pytest.mark.parametrize("last", [1, 2])
def test_a_fit_that_goes_on_ends_as_one_that_was_never_stopped(data, last):
    whole, parts = network(), network()
    fit(whole, data)
    fit(parts, data, last=last)
    fit(parts, data, first=last + 1)
    for one, other in zip(whole.get_weights(), parts.get_weights()):
        np.testing.assert_array_equal(one, other)
