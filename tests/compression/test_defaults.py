"""What `compress` does where the user says nothing: it follows model and data."""

import keras
import numpy as np
import pytest

from tfcompress import CompressionWarning
from tfcompress.compression.recipe import Recipe
from tfcompress.compression.search import Search
from tfcompress.compression.stages import Fit, Prune, Quantize
from tfcompress.compression.task import Task


def fitted(samples=130, optimizer=None, recompile=False, **how):
    """Returns a model after a `fit`, and its data."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(samples, 4)).astype("float32")
    y = np.arange(samples) % 3
    if how:
        model.fit(x, y, verbose=0, **how)
    if recompile:
        model.compile(keras.optimizers.Adam(5e-4), loss, metrics=["accuracy"])
    return model, (x, y)


def task_of(model, data, **options):
    return Task(model, data, data, **options)


@pytest.mark.parametrize("samples", [63, 130, 257])
@pytest.mark.parametrize("batch_size", [8, 16, 32])
def test_batches_are_as_large_as_those_of_the_models_own_fit(samples, batch_size):
    model, data = fitted(samples, batch_size=batch_size)
    assert task_of(model, data).train.batch_size == batch_size


def test_batches_of_a_fit_on_other_data_say_nothing():
    model, _ = fitted(40, batch_size=1)
    _, data = fitted(3000)
    assert task_of(model, data).train.batch_size == 32
    model, data = fitted(12_000)
    assert task_of(model, data).train.batch_size == 128
    assert task_of(model, data, batch_size=50).train.batch_size == 50


class Falling(keras.callbacks.LearningRateScheduler):
    def __init__(self):
        super().__init__(lambda epoch, rate: 2e-3 * 0.1**epoch)


@pytest.mark.parametrize(
    "callback",
    [
        Falling,
        lambda: keras.callbacks.ReduceLROnPlateau("loss", 0.1, 0, min_delta=9.0),
    ],
)
def test_training_begins_with_the_rate_that_the_models_began_with(callback):
    model, data = fitted(epochs=4, callbacks=[callback()])
    first = 2e-3 if callback is Falling else 1e-3
    assert float(model.optimizer.learning_rate) < 1e-4
    assert task_of(model, data).learning_rate == pytest.approx(first)


def test_a_schedule_of_the_optimizer_begins_at_its_beginning():
    decay = keras.optimizers.schedules.ExponentialDecay(1e-3, 1, 0.1)
    model, data = fitted(optimizer=keras.optimizers.Adam(decay), epochs=2)
    assert task_of(model, data).learning_rate == pytest.approx(1e-3)


def test_a_model_that_was_compiled_anew_has_its_new_rate():
    model, data = fitted(epochs=3, callbacks=[Falling()], recompile=True)
    assert task_of(model, data).learning_rate == pytest.approx(5e-4)


def test_a_small_rate_of_which_nothing_is_known_is_named(tmp_path):
    model, data = fitted(epochs=5, callbacks=[Falling()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.warns(CompressionWarning, match=r"2\.0e-07.*Search\(learning_rate"):
        task_of(loaded, data)
    assert task_of(loaded, data, learning_rate=1e-3).learning_rate == 1e-3


def test_each_candidate_makes_about_as_many_steps():
    search = Search()
    for steps in (20, 45, 157, 500):
        assert 1900 <= steps * search.epochs_of_each(steps) <= 2100
    assert search.epochs_of_each(3) == 100
    assert search.epochs_of_each(2000) == 4
    assert Search(trials=4, epochs=10).epochs_of_each(3) == 2


def test_a_limit_of_passes_holds_for_the_last_training_too():
    assert Search().times_as_long == 3
    assert Search(epochs=8).times_as_long == 1
    assert Search(epochs=8, final=2).times_as_long == 2


def test_a_recipe_is_trained_longer_in_each_fit():
    recipe = Recipe((Prune(0.5), Fit(2), Quantize("w8a8"), Fit(1, 0.3)))
    longer = recipe.trained_longer(3)
    assert (recipe.epochs, longer.epochs) == (3, 9)
    assert [s.name for s in longer.stages] == [s.name for s in recipe.stages]
