"""A short fit with quantizers at the rate of a training from scratch is warned of."""

import warnings

import keras
import numpy as np
import pytest

import tfcompress as tc

X, Y = np.ones((32, 4), "float32"), np.zeros((32, 3), "float32")


def trained(rate):
    model = keras.Sequential(
        [keras.Input((4,), name="x"), keras.layers.Dense(3, name="dense")]
    )
    model.compile(keras.optimizers.SGD(rate), "mse")
    model.fit(X, Y, verbose=0)
    return model


def fit(model, rate):
    model.compile(keras.optimizers.SGD(rate), "mse")
    freeze = tc.FreezeQuantization(ranges_at_epoch=0)
    model.fit(X, Y, verbose=0, callbacks=[freeze])


@pytest.mark.parametrize("make", [tc.quantize_aware, lambda m: tc.calibrate(m, X)])
def test_a_rate_far_above_the_last_one_is_warned_of(make):
    aware = make(trained(1e-4))
    with pytest.warns(tc.CompressionWarning, match=r"1\.0e-02.*ended at 1\.0e-04"):
        fit(aware, 1e-2)


def test_other_rates_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error", tc.CompressionWarning)
        fit(tc.quantize_aware(trained(1e-3)), 1e-3)
        fit(tc.quantize_aware(trained(1e-3)), 1e-5)


def test_nothing_is_said_of_a_training_that_nobody_knows():
    model = keras.models.clone_model(trained(1e-4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", tc.CompressionWarning)
        fit(tc.quantize_aware(model), 1e-2)


def test_a_fit_that_goes_on_is_not_warned_of_again():
    aware = tc.quantize_aware(trained(1e-4))
    with pytest.warns(tc.CompressionWarning, match="FreezeQuantization"):
        fit(aware, 1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", tc.CompressionWarning)
        again = tc.FreezeQuantization(ranges_at_epoch=0)
        aware.fit(X, Y, verbose=0, callbacks=[again])


def test_a_schedule_that_ended_at_zero_says_nothing_of_the_rate():
    decay = keras.optimizers.schedules.CosineDecay(1e-2, 1)  # X is one batch
    with warnings.catch_warnings():
        warnings.simplefilter("error", tc.CompressionWarning)
        fit(tc.quantize_aware(trained(decay)), 1e-2)
