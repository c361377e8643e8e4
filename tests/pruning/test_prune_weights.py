"""PruneWeights: how sparse, where, and what is left as it was."""

import keras
import numpy as np
import pytest

from tests.pruning.pruned import (
    compiled,
    expected_sparsities,
    kernels,
    mlp,
    schedule,
    sparsities,
    sparsity,
)
from tfcompress import ConstantSparsity, PolynomialSparsity, PruneWeights
from tfcompress.pruning.sites import select_sites


def still(model):
    """Compiles with a rate of zero, so that weights change by pruning alone."""
    return compiled(model, keras.optimizers.SGD(0.0))


def sorted_mask(values, target):
    keep = max(round(values.size * (1 - target)), 1)
    order = np.argsort(-np.abs(values).reshape(-1), kind="stable")[:keep]
    mask = np.zeros(values.size, bool)
    mask[order] = True
    return mask.reshape(values.shape)


@pytest.mark.parametrize("target", [0.3, 0.99])
def test_layer_scope_keeps_what_a_sort_keeps(fit, target):
    model = still(mlp())
    before = [kernel.numpy() for kernel in kernels(model)]
    fit(model, PruneWeights(target, scope="layer"))
    for kernel, values in zip(kernels(model), before):
        np.testing.assert_array_equal(kernel, values * sorted_mask(values, target))


def test_global_scope_keeps_what_one_sort_keeps(fit):
    target = 0.9
    model = still(mlp())
    before = np.concatenate([kernel.numpy().ravel() for kernel in kernels(model)])
    fit(model, PruneWeights(target, scope="global"))
    after = np.concatenate([kernel.numpy().ravel() for kernel in kernels(model)])
    np.testing.assert_array_equal(after, before * sorted_mask(before, target))
    assert len(set(np.round(sparsities(model), 2))) > 1


def test_equal_weights_are_pruned_to_the_exact_count(fit):
    model = still(mlp(kernel_initializer=keras.initializers.Constant(0.1)))
    fit(model, PruneWeights(0.75, scope="layer"))
    assert sparsity(model.layers[0].kernel) == 0.75


def test_biases_and_normalization_are_left_alone(fit):
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(8, bias_initializer="ones"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    fit(still(model), PruneWeights(0.75, scope="layer"))
    for variable in (model.layers[0].bias, model.layers[1].gamma):
        assert sparsity(variable) == 0.0


def test_users_own_constraint_holds_and_comes_back(fit):
    constraint = keras.constraints.UnitNorm(axis=0)
    model = fit(mlp(kernel_constraint=constraint))
    kernel = model.layers[0].kernel
    assert kernel.constraint is constraint
    assert sparsity(kernel) == 0.75
    norms = np.linalg.norm(kernel.numpy(), axis=0)
    assert norms.max() < 1 + 1e-5
    assert model.layers[1].kernel.constraint is None


def test_layers_in_nested_models_are_found(fit):
    inner = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(16, name="deep")], name="inner"
    )
    inputs = keras.Input((12,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(inner(inputs)))
    fit(model, PruneWeights(schedule(), filters="inner/deep"))
    assert sparsity(inner.layers[0].kernel) == 0.75
    assert sparsity(model.layers[-1].kernel) == 0.0


def test_a_subclassed_model(fit):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 12)))
    fit(model)
    assert sparsity(model.dense.kernel) == 0.75


def test_frozen_layers_are_not_touched(fit):
    model = mlp()
    model.layers[0].trainable = False
    before = model.layers[0].kernel.numpy()
    fit(model)
    np.testing.assert_array_equal(model.layers[0].kernel, before)
    assert sparsities(model)[1:] == pytest.approx(expected_sparsities(model, 0.75)[1:])


def test_a_shared_layer_is_pruned_once(fit, capsys):
    shared = keras.layers.Dense(12, name="shared")
    inputs = keras.Input((12,))
    model = keras.Model(inputs, shared(shared(inputs)))
    fit(model, PruneWeights(schedule(), verbose=1))
    assert sparsity(shared.kernel) == 0.75
    assert "1 kernel, 144 weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("filters", "pruned"),
    [
        ("first|second", [1, 1, 0]),
        (keras.layers.Dense, [1, 1, 1]),
        (lambda layer: layer.units == 10, [0, 1, 0]),
        (["^first$", lambda layer: layer.units == 3], [1, 0, 1]),
    ],
    ids=["regex", "class", "predicate", "list"],
)
def test_filters(filters, pruned):
    model = mlp()
    found = [kernel.variable for kernel in select_sites(model, filters)]
    expected = [kernel for kernel, p in zip(kernels(model), pruned) if p]
    assert [id(v) for v in found] == [id(v) for v in expected]


def test_several_of_them_in_one_fit(fit):
    model = fit(
        mlp(),
        PruneWeights(schedule(0.5), filters="first"),
        PruneWeights(schedule(0.8), filters="second"),
    )
    assert sparsities(model) == [0.5, 0.8, 0.0]


def test_two_on_the_same_kernel_leave_the_sparser(fit):
    model = fit(
        mlp(),
        PruneWeights(schedule(0.5), filters="first"),
        PruneWeights(schedule(0.75), filters="first"),
    )
    assert sparsity(model.layers[0].kernel) == 0.75


def test_sparsity_follows_the_schedule_step_by_step(fit):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(sparsity(self.model.layers[0].kernel))

    plan = PolynomialSparsity(0.25, 0.75, 2, 10, power=1, frequency=4)
    fit(mlp(), PruneWeights(plan, scope="layer"), Watch())
    size = 12 * 16
    expected = [0, 0] + [0.25] * 4 + [0.5] * 4 + [0.75] * 6
    assert seen == [1 - round(size * (1 - value)) / size for value in expected]


def test_zeros_stay_until_the_next_update(fit):
    masks = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks.append(self.model.layers[0].kernel.numpy() != 0)

    fit(mlp(), PruneWeights(ConstantSparsity(0.5, frequency=100)), Watch())
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_the_first_kernel_may_have_no_gradient():
    """Keras leaves out the constraints of variables without one."""
    x = inputs = keras.Input((6,))
    x = keras.layers.Dense(8, name="unreached")(x)
    x = keras.layers.Dense(4, name="trained")(keras.ops.round(x))
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    data = np.ones((32, 6), "float32"), np.zeros((32, 4), "float32")
    pruning = PruneWeights(ConstantSparsity(0.5, frequency=1), scope="layer")
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(*data, epochs=2, verbose=0, callbacks=[pruning])
    for name in ("unreached", "trained"):
        kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
        assert np.mean(kernel == 0) == 0.5


def test_verbose_tells_plan_and_outcome(fit, capsys):
    fit(mlp(), PruneWeights(schedule(0.75), verbose=1))
    assert capsys.readouterr().out.splitlines() == [
        "PruneWeights: 3 kernels, 382 weights; 7 updates at steps 0, 2, 4, ..., 10, "
        "11; final sparsity 0.75 at step 11.",
        "PruneWeights: 74.9% of 382 weights are zero.",
    ]


def test_silent_by_default(fit, capsys):
    fit(mlp())
    assert capsys.readouterr().out == ""


def test_saved_during_fit_loads_with_the_users_constraint(fit, tmp_path):
    path = str(tmp_path / "model.keras")
    model = mlp(kernel_constraint=keras.constraints.MaxNorm(2.0))
    fit(model, PruneWeights(schedule()), keras.callbacks.ModelCheckpoint(path))
    loaded = keras.models.load_model(path)
    assert isinstance(loaded.layers[0].kernel.constraint, keras.constraints.MaxNorm)
    assert sparsities(loaded) == sparsities(model)
    assert loaded.count_params() == model.count_params()


class _Die(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5:
            raise RuntimeError("power cut")


def test_a_fit_that_died_leaves_no_projection_behind(fit, data):
    constraint = keras.constraints.MaxNorm(3.0)
    model = compiled(mlp(kernel_constraint=constraint))
    both = (
        PruneWeights(0.75, filters="first"),
        PruneWeights(0.5, filters="second"),
    )
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, *both, _Die())
    assert sparsities(model) == [0.75, 0.5, 0.0]

    dense = mlp(seed=3).get_weights()
    model.set_weights(dense)
    model.fit(*data, batch_size=8, verbose=0)  # without pruning
    assert max(sparsities(model)) == 0.0
    assert model.layers[0].kernel.constraint is constraint
    assert model.layers[1].kernel.constraint is None


def test_a_fit_after_one_that_died_prunes_as_ever(fit):
    model = compiled(mlp())
    callback = PruneWeights(0.5, scope="layer")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, callback, _Die())
    fit(model, callback)
    assert sparsities(model) == pytest.approx(expected_sparsities(model, 0.5))
    assert model.layers[0].kernel.constraint is None
