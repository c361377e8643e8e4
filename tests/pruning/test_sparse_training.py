"""SparseTraining: budgets, how many weights move, and where to."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.pruning.pruned import compiled, kernels, mlp, sparsities
from tfcompress import InvalidArgumentError
from tfcompress.pruning.sites import select_sites
from tfcompress.pruning.sparse_training import SparseTraining, kept_counts


def total_sparsity(model):
    return np.mean(np.concatenate([k.numpy().ravel() for k in kernels(model)]) == 0)


class Watch(keras.callbacks.Callback):
    """The mask of the first kernel after each step."""

    def __init__(self):
        super().__init__()
        self.masks, self.values = [], []

    def on_train_batch_end(self, batch, logs=None):
        values = self.model.layers[0].kernel.numpy()
        self.values.append(values)
        self.masks.append(values != 0)


def wide():
    return keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(300),
            keras.layers.Dense(100),
            keras.layers.Dense(10),
        ]
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("budget", ["erk", "uniform"])
def test_budgets_add_up(sparsity, budget):
    sites = select_sites(wide())
    counts = kept_counts(sites, sparsity, budget)
    total = sum(site.size for site in sites)
    assert sum(counts) == pytest.approx((1 - sparsity) * total, abs=1)
    assert all(1 <= count <= site.size for count, site in zip(counts, sites))


def test_erk_follows_its_formula():
    sites = select_sites(wide())
    counts = np.array(kept_counts(sites, 0.9, "erk"))
    sizes = np.array([784 * 300, 300 * 100, 100 * 10])
    share = np.array([1084, 400, 110]) / sizes
    scale = (0.1 * sizes.sum() - 1000) / (share * sizes)[:2].sum()
    # The last layer would be more than dense, and is dense.
    np.testing.assert_allclose(counts, [*(share * sizes * scale)[:2], 1000], atol=1)


def test_uniform_gives_each_the_same():
    sites = select_sites(wide())
    counts = kept_counts(sites, 0.9, "uniform")
    assert counts == [23520, 3000, 100]


def linear():
    """A network without units that ReLU has killed."""
    keras.utils.set_random_seed(0)
    sizes = {"first": 16, "second": 10, "logits": 3}
    dense = [keras.layers.Dense(units, name=name) for name, units in sizes.items()]
    return compiled(keras.Sequential([keras.Input((12,)), *dense]))


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_sparse_from_the_first_step_to_the_last(fit, method):
    seen = []

    class Sparsity(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(total_sparsity(self.model))

    watch = Watch()
    train = SparseTraining(0.8, method, "uniform", frequency=3, end_step=12)
    model = fit(linear(), train, watch, Sparsity())
    # A weight grown by lot on a unit that leads nowhere has no gradient and stays 0.
    assert seen == pytest.approx([0.8] * 16, abs=0.003 if method == "rigl" else 0.04)
    assert min(seen) == pytest.approx(0.8, abs=0.003)
    moved = [int(np.sum(b & ~a)) for a, b in zip(watch.masks, watch.masks[1:])]
    # 0.3 * (1 + cos(pi * k / 12)) / 2 of 38 weights at steps 3, 6, 9, at most: what
    # was just dropped may be what grows.
    most = {k: round(38 * 0.15 * (1 + np.cos(np.pi * k / 12))) for k in (3, 6, 9)}
    for step, count in enumerate(moved, start=1):
        late = 0 if method == "rigl" else 4
        assert most.get(step, 0) - 4 <= count <= most.get(step, 0) + late
    assert model.layers[0].kernel.constraint is None


def test_rigl_drops_the_smallest_and_grows_the_steepest(fit, data):
    model = linear()
    model.optimizer.learning_rate = 1e-6
    watch = Watch()
    train = SparseTraining(0.8, "rigl", "uniform", end_step=3, frequency=1)
    fit(model, train, watch, epochs=5, batch_size=64)
    before, after, values = watch.masks[0], watch.masks[1], np.abs(watch.values[0])
    count = round(38 * 0.15 * (1 + np.cos(np.pi / 3)))
    dropped, grown = before & ~after, after & ~before
    assert dropped.sum() == grown.sum() > 0
    assert values[dropped].max() <= np.sort(values[before])[count - 1]

    twin = linear()
    twin.layers[0].kernel.assign(watch.values[0])
    for mine, theirs in zip(twin.layers[1:], model.layers[1:]):
        mine.set_weights(theirs.get_weights())  # rates of 1e-6 moved them by 1e-5
    with tf.GradientTape() as tape:
        loss = twin.compute_loss(y=data[1], y_pred=twin(data[0]))
    gradient = np.abs(tape.gradient(loss, twin.layers[0].kernel.value).numpy())
    assert gradient[grown].mean() > 1.5 * gradient[~before & ~after].mean()


@pytest.mark.sweep(1)
@pytest.mark.parametrize("how", [{"jit_compile": True}, {"steps_per_execution": 4}])
def test_execution_mode(fit, how):
    train = SparseTraining(0.8, "rigl", frequency=2)
    model = fit(compiled(mlp(), **how), train)
    assert total_sparsity(model) == pytest.approx(0.8, abs=0.01)


def test_gradient_accumulation_moves_once_a_step(fit):
    watch = Watch()
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    train = SparseTraining(0.8, "set", "uniform", end_step=6, frequency=3)
    fit(compiled(mlp(), optimizer), train, watch)
    changes = [int(np.sum(a & ~b)) for a, b in zip(watch.masks, watch.masks[1:])]
    assert changes[5] == round(38 * 0.15)
    assert sum(changes) == round(38 * 0.15)


def test_a_resumed_run_keeps_the_sparsity(fit, tmp_path):
    class Die(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def callbacks():
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        return SparseTraining(0.8, frequency=2), backup

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(mlp()), *callbacks(), Die(), epochs=4)
    model = fit(compiled(mlp(seed=5)), *callbacks(), epochs=4)
    assert total_sparsity(model) == pytest.approx(0.8, abs=0.01)
    assert len(set(np.round(sparsities(model), 2))) == 3  # ERK, not uniform


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"`sparsity` must be a fraction"),
        ({"sparsity": 0.5, "method": "random"}, "'rigl' or 'set'"),
        ({"sparsity": 0.5, "budget": "layer"}, "'erk' or 'uniform'"),
        ({"sparsity": 0.5, "drop_fraction": 1.5}, r"`drop_fraction` must be"),
        ({"sparsity": 0.5, "end_step": 1.5}, "a float and so a fraction"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SparseTraining(**arguments)


def test_a_fit_too_short(fit):
    with pytest.raises(InvalidArgumentError, match="fit is too short"):
        fit(mlp(), SparseTraining(0.5, end_step=1000))
