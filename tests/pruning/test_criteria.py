"""Criteria: scores against NumPy, and what they keep in a fit."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests.pruning.pruned import (
    compiled,
    expected_sparsities,
    kernels,
    mlp,
    schedule,
    sparsities,
)
from tfcompress import InvalidArgumentError, PruneWeights, UnsupportedLayerError
from tfcompress.pruning.criteria import (
    CRITERIA,
    BatchNormScale,
    Grasp,
    Lamp,
    Magnitude,
    Movement,
    Random,
    Snip,
    Taylor,
)
from tfcompress.pruning.masks import global_masks
from tfcompress.pruning.sites import select_sites

EVERY_NAME = ["grasp", "lamp", "magnitude", "movement", "random", "snip", "taylor"]


def site_of(values):
    model = keras.Sequential(
        [keras.Input((values.shape[0],)), keras.layers.Dense(values.shape[1], name="d")]
    )
    (site,) = select_sites(model)
    site.variable.assign(values)
    return site


# Scores of weights, of gradients in each step, and of batches before the first; what
# the rest do in a step is in tests/contracts.
@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "name", ["magnitude", "taylor", "grasp", "lamp", "movement", "random", "snip"]
)
def test_every_criterion_reaches_the_sparsity(fit, name):
    model = fit(mlp(), PruneWeights(schedule(0.8), criterion=name, scope="global"))
    total = np.concatenate([k.numpy().ravel() for k in kernels(model)])
    assert np.mean(total == 0) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("name", [*EVERY_NAME, "batch_norm_scale"])
def test_config_round_trip(name):
    criterion = CRITERIA.get(name)
    again = CRITERIA.get(keras.saving.serialize_keras_object(criterion))
    assert type(again) is type(criterion)
    assert again.get_config() == criterion.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Magnitude(p=3), "must be 1 or 2"),
        (lambda: Taylor(decay=1.0), r"Taylor must be in \[0, 1\)"),
        (lambda: Movement(decay=-0.1), r"Movement must be in \[0, 1\)"),
        (lambda: Snip(batches=0), "positive number of batches"),
        (lambda: Random(seed=None), "must be an int"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_magnitude_powers():
    values = ops.array([-3.0, 0.5])
    assert Magnitude(1).score(values).numpy().tolist() == [3.0, 0.5]
    assert Magnitude(2).score(values).numpy().tolist() == [9.0, 0.25]


def test_lamp_equals_its_formula(rng):
    values = rng.normal(size=(7, 9)).astype("float32")
    squares = values.ravel() ** 2
    expected = [s / squares[squares >= s].sum() for s in squares]
    scores = Lamp().score(ops.array(values)).numpy()
    np.testing.assert_allclose(scores.ravel(), expected, rtol=1e-5)


def test_lamp_of_zeros_is_finite():
    assert Lamp().score(ops.zeros((2, 2))).numpy().tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_lamp_leaves_small_layers_alive_where_magnitude_does_not(rng):
    layers = [ops.array(rng.normal(size=500) * scale) for scale in (1, 1e-3)]

    def kept(criterion):
        masks = global_masks([criterion.score(w) for w in layers], 0.9)
        return [int(np.sum(mask)) for mask in masks]

    assert kept(Magnitude()) == [100, 0]
    assert min(kept(Lamp())) > 30


def test_random_draws_by_seed_and_place(rng):
    site = site_of(rng.normal(size=(30, 20)).astype("float32"))
    one, same, other = (
        Random(seed).for_site(site).score(site.variable).numpy() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.15
    assert one.min() >= 0.0
    assert one.max() < 1.0


def test_taylor_is_a_moving_average_of_squares(rng):
    site = site_of(rng.normal(size=(4, 3)).astype("float32"))
    criterion = Taylor(decay=0.75).for_site(site)
    gradients = rng.normal(size=(5, 4, 3)).astype("float32")
    weights = site.variable.numpy()
    expected = np.zeros((4, 3))
    for gradient in gradients:
        criterion.observe(site.variable, ops.array(gradient))
        expected = 0.75 * expected + 0.25 * (gradient * weights) ** 2
    np.testing.assert_allclose(criterion.score(site.variable), expected, rtol=1e-5)


def test_movement_holds_the_score_of_what_has_gone():
    site = site_of(np.array([[1.0, 0.0]], "float32"))
    criterion = Movement(decay=0.5).for_site(site)
    criterion.evidence.assign([[0.0, -3.0]])
    criterion.observe(site.variable, ops.array([[-2.0, -2.0]]))
    assert criterion.score(site.variable).numpy().tolist() == [[2.0, -3.0]]
    criterion.observe(site.variable, ops.array([[-2.0, -2.0]]))
    assert criterion.score(site.variable).numpy().tolist() == [[3.0, -3.0]]


def test_movement_is_the_papers_sum_by_default(rng):
    site = site_of(rng.normal(size=(4, 3)).astype("float32"))
    criterion = Movement().for_site(site)
    gradients = rng.normal(size=(5, 4, 3)).astype("float32")
    for gradient in gradients:
        criterion.observe(site.variable, ops.array(gradient))
    expected = -gradients.sum(axis=0) * site.variable.numpy()
    np.testing.assert_allclose(
        criterion.score(site.variable), expected, rtol=1e-4, atol=1e-5
    )


def test_snip_is_final_after_its_batches(rng):
    site = site_of(rng.normal(size=(4, 3)).astype("float32"))
    criterion = Snip(batches=2).for_site(site)
    gradients = rng.normal(size=(4, 4, 3)).astype("float32")
    for gradient in gradients:
        criterion.observe(site.variable, ops.array(gradient))
    expected = np.abs(site.variable.numpy() * (gradients[0] + gradients[1]))
    np.testing.assert_allclose(criterion.score(site.variable), expected, rtol=1e-5)


def test_grasp_is_the_hessian_of_its_batches_times_their_gradient(rng):
    site = site_of(rng.normal(size=(4, 3)).astype("float32"))
    criterion = Grasp(batches=3).for_site(site)
    gradients = rng.normal(size=(5, 4, 3)).astype("float32")
    for gradient in gradients:
        criterion.observe(site.variable, ops.array(gradient))
    means = np.cumsum(gradients[:3], axis=0) / np.arange(1, 4)[:, None, None]
    product = sum(g * np.sum(g * mean) for g, mean in zip(gradients, means))
    expected = site.variable.numpy() * product
    np.testing.assert_allclose(
        criterion.score(site.variable), expected, rtol=1e-4, atol=1e-4
    )


def test_taylor_in_a_fit_keeps_what_its_formula_keeps(fit, data):
    model = compiled(mlp(), keras.optimizers.SGD(0.0))
    kernel = model.layers[0].kernel
    before = kernel.numpy()
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=data[1], y_pred=model(data[0]))
    scores = (tape.gradient(loss, kernel.value).numpy() * before) ** 2
    fit(model, PruneWeights(0.5, criterion="taylor"), batch_size=64)
    kept = kernel.numpy() != 0
    assert scores[kept].min() > scores[~kept].max()


def test_gradient_criteria_under_loss_scaling_and_xla(fit):
    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(mlp(), jit_compile=True, steps_per_execution=2)
    fit(model, PruneWeights(schedule(0.8), "taylor", scope="layer"))
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.8))


def test_the_optimizer_is_its_own_again_after_fit_and_after_a_crash(fit):
    class Die(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("power cut")

    model = compiled(mlp())
    own = model.optimizer.apply
    fit(model, PruneWeights(schedule(), criterion="movement"))
    assert model.optimizer.apply == own
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, PruneWeights(0.5, criterion="movement"), Die())
    fit(model, keras.callbacks.History(), epochs=1)
    assert model.optimizer.apply == own


def conv_with_norm():
    return keras.Sequential(
        [
            keras.Input((12, 1)),
            keras.layers.Conv1D(16, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def test_batch_norm_scale_keeps_the_channels_with_the_largest_scale(fit):
    model = compiled(conv_with_norm(), keras.optimizers.SGD(0.0))
    scale = np.linspace(-2, 0.9, 16)
    model.get_layer("norm").gamma.assign(scale)
    fit(model, PruneWeights(0.5, BatchNormScale(), "channel", filters="conv"))
    alive = np.any(model.get_layer("conv").kernel.numpy() != 0, axis=(0, 1))
    expected = np.sort(np.argsort(-np.abs(scale))[:8])
    assert np.flatnonzero(alive).tolist() == expected.tolist()


def test_batch_norm_scale_names_a_layer_without_one(fit):
    with pytest.raises(UnsupportedLayerError, match="channels of layer 'logits'"):
        fit(conv_with_norm(), PruneWeights(0.5, "batch_norm_scale", filters="logits"))
