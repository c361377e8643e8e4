"""ClusterWeights: shared values that train as one, in every way a step can run."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tests.pruning.pruned import compiled, kernels, mlp
from tfcompress.clustering.callback import ClusterWeights

CLUSTERS = 5


def distinct(model):
    return [len(np.unique(kernel.numpy())) for kernel in kernels(model)]


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 12)).astype("float32")
    return x, generator.integers(0, 3, 64)


@pytest.fixture
def fit(data):
    def run(model, *callbacks, **kwargs):
        kwargs = {"batch_size": 8, "verbose": 0, "epochs": 2, **kwargs}
        callbacks = callbacks or (ClusterWeights(CLUSTERS),)
        model.fit(*data, callbacks=list(callbacks), **kwargs)
        return model

    return run


@pytest.mark.sweep(5)
@pytest.mark.parametrize(
    ("optimizer", "how"),
    [
        ("sgd", {}),
        ("adam", {"steps_per_execution": 4}),
        ("adam", {"jit_compile": True}),
        ("adam", {"run_eagerly": True}),
        (lambda: keras.optimizers.Adam(use_ema=True), {}),
        (lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=3), {}),
        (lambda: keras.optimizers.Adam(gradient_accumulation_steps=2), {}),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=1.0), {}),
        (lambda: keras.optimizers.AdamW(weight_decay=0.1), {}),
        (lambda: keras.optimizers.Muon(), {}),
    ],
    # Addresses in names would differ between the processes of pytest-xdist.
    ids=lambda value: "made" if callable(value) else str(value),
)
def test_every_kernel_has_so_many_values(fit, optimizer, how):
    optimizer = optimizer if isinstance(optimizer, str) else optimizer()
    model = compiled(mlp(), optimizer, **how)
    before = [kernel.numpy() for kernel in kernels(model)]
    fit(model)
    assert distinct(model) == [CLUSTERS] * 3
    assert all(np.any(a != k.numpy()) for a, k in zip(before, kernels(model)))
    every = model.optimizer.gradient_accumulation_steps or 1
    assert int(model.optimizer.iterations.numpy()) == 16 // every
    assert "apply" not in vars(model.optimizer)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(fit, policy):
    keras.config.set_dtype_policy(policy)
    assert distinct(fit(compiled(mlp()))) == [CLUSTERS] * 3


class Shared(keras.layers.Layer):
    """The reference: a dense layer whose parameters are the entries themselves."""

    def __init__(self, codes, entries, members):
        super().__init__()
        self.codes, self.members = codes, members
        self.entries = self.add_weight(shape=entries.shape, initializer="zeros")
        self.entries.assign(entries)

    def call(self, x):
        # The gradient of an entry comes out as the mean over its members.
        still = keras.ops.stop_gradient(self.entries)
        scaled = still + (self.entries - still) / self.members
        return x @ keras.ops.take(scaled, self.codes)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "lion"])
def test_entries_train_like_shared_parameters(data, optimizer):
    x = data[0]
    y = x @ np.random.default_rng(1).normal(size=(12, 6)).astype("float32")
    model = keras.Sequential([keras.Input((12,)), layers.Dense(6, use_bias=False)])
    kernel = model.layers[0].kernel.numpy()
    weights = tfcompress.clustering.starts.codebook(kernel, CLUSTERS, "linear")
    codes = tfcompress.clustering.starts.nearest(kernel, weights)
    reference = keras.Sequential(
        [keras.Input((12,)), Shared(codes, weights, np.bincount(codes.ravel()))]
    )
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.8)
    for one in (model, reference):
        one.compile(keras.optimizers.get(optimizer), "mse")
        one.optimizer.learning_rate = rate
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "epochs": 3}
    model.fit(x, y, callbacks=[ClusterWeights(CLUSTERS, "linear")], **options)
    reference.fit(x, y, **options)
    trained = reference.layers[0].entries.numpy()
    assert np.abs(trained - weights).max() > 0.01
    np.testing.assert_allclose(model.layers[0].kernel, trained[codes], atol=2e-6)


def test_trained_members_go_to_the_nearest_entry(data):
    x = data[0]
    y = x @ np.random.default_rng(1).normal(size=(12, 6)).astype("float32")
    model = keras.Sequential([keras.Input((12,)), layers.Dense(6, use_bias=False)])
    kernel = model.layers[0].kernel
    model.compile(keras.optimizers.SGD(0.2), "mse")
    latent = kernel.numpy()
    latent[np.abs(latent) < 0.1] = 0.0
    kernel.assign(latent)
    alive = latent != 0
    find = tfcompress.clustering.starts
    entries = find.codebook(latent[alive], CLUSTERS - 1, "linear").astype("float64")
    codes = first = find.nearest(latent, entries)
    latent = latent.astype("float64")
    for start in range(0, 64, 8):
        now = np.where(alive, entries[codes], 0.0)
        error = x[start : start + 8] @ now - y[start : start + 8]
        gradient = 2.0 * x[start : start + 8].T @ error / error.size
        for code in range(CLUSTERS - 1):
            own = alive & (codes == code)
            entries[code] -= 0.2 * (gradient[own].mean() if own.any() else 0.0)
        latent -= 0.2 * gradient
        codes = np.abs(latent[..., None] - entries).argmin(-1)
    assert np.mean(codes[alive] != first[alive]) > 0.2
    share = ClusterWeights(CLUSTERS, "linear", members="trained")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[share])
    np.testing.assert_allclose(kernel, np.where(alive, entries[codes], 0.0), atol=1e-5)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("optimizer", "how"),
    [
        ("adam", {"steps_per_execution": 4}),
        ("adam", {"jit_compile": True}),
        (lambda: keras.optimizers.Adam(use_ema=True), {"run_eagerly": True}),
        (lambda: keras.optimizers.Adam(gradient_accumulation_steps=2), {}),
    ],
    ids=lambda value: "made" if callable(value) else str(value),
)
def test_trained_members_in_every_step(fit, optimizer, how):
    optimizer = optimizer if isinstance(optimizer, str) else optimizer()
    model = compiled(mlp(), optimizer, **how)
    schedule = tfcompress.PolynomialSparsity(0.0, 0.5, frequency=2)
    prune = tfcompress.PruneWeights(schedule, scope="layer")
    fit(model, prune, ClusterWeights(CLUSTERS, members="trained"), epochs=3)
    assert 1 < min(distinct(model)) <= max(distinct(model)) <= CLUSTERS
    zeros = [float(np.mean(kernel.numpy() == 0)) for kernel in kernels(model)]
    assert zeros == pytest.approx([0.5, 0.5, 0.5], abs=0.02)


@pytest.mark.parametrize("first", ["prune", "cluster"])
def test_zeros_stay_and_are_one_of_the_values(fit, first):
    schedule = tfcompress.PolynomialSparsity(0.0, 0.75, frequency=2)
    callbacks = [
        tfcompress.PruneWeights(schedule, scope="layer"),
        ClusterWeights(CLUSTERS),
    ]
    if first == "cluster":
        callbacks.reverse()
    model = fit(compiled(mlp()), *callbacks, epochs=3)
    assert all(0 in kernel.numpy() for kernel in kernels(model))
    assert max(distinct(model)) <= CLUSTERS
    zeros = [float(np.mean(kernel.numpy() == 0)) for kernel in kernels(model)]
    assert zeros == pytest.approx([0.75, 0.75, 0.75], abs=0.02)


def test_zeros_from_before_stay(fit):
    model = compiled(mlp())
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.abs(kernel) < 0.2, 0.0, kernel))
    pattern = kernel.numpy() == 0
    fit(model)
    np.testing.assert_array_equal(kernel.numpy() == 0, pattern)
    assert distinct(model) == [CLUSTERS] * 3


def test_it_begins_at_its_step(fit, capsys):
    model = fit(compiled(mlp()), ClusterWeights(4, begin_step=0.5, verbose=1))
    assert "382 weights; 4/4/4 values at step 8." in capsys.readouterr().out
    assert distinct(model) == [4, 4, 4]


def test_before_its_step_nothing_is_shared(fit):
    plain = fit(compiled(mlp()), keras.callbacks.Callback(), shuffle=False)
    waiting = fit(compiled(mlp()), ClusterWeights(4, begin_step=99), shuffle=False)
    for one, other in zip(plain.get_weights(), waiting.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_one_codebook_for_all_or_numbers_by_filter(fit):
    model = fit(compiled(mlp()), ClusterWeights(7, scope="global"))
    values = np.concatenate([kernel.numpy().ravel() for kernel in kernels(model)])
    assert len(np.unique(values)) == 7
    model = fit(compiled(mlp()), ClusterWeights({"first": 9, "s": 3}, "quantile"))
    assert distinct(model) == [9, 3, 3]
    two = ClusterWeights(3, filters="first"), ClusterWeights(6, filters="logits")
    assert distinct(fit(compiled(mlp()), *two))[::2] == [3, 6]


def test_a_users_constraint_holds_as_well(fit):
    limit = keras.constraints.MaxNorm(0.5)
    model = compiled(mlp(kernel_constraint=limit))
    fit(model)
    assert distinct(model) == [CLUSTERS] * 3
    norms = np.linalg.norm(model.layers[0].kernel, axis=0)
    assert np.median(norms) < 0.55
    assert model.layers[0].kernel.constraint is limit


def test_a_second_fit_goes_on_with_the_values_it_finds(fit):
    model = fit(compiled(mlp()))
    pattern = np.unique(model.layers[0].kernel.numpy(), return_inverse=True)[1]
    fit(model)
    after = np.unique(model.layers[0].kernel.numpy(), return_inverse=True)[1]
    assert distinct(model) == [CLUSTERS] * 3
    np.testing.assert_array_equal(after, pattern)


def test_an_embedding_and_a_recurrent_layer(data):
    model = keras.Sequential(
        [keras.Input((4,), dtype="int32"), layers.Embedding(9, 6), layers.LSTM(5)]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).integers(0, 9, (16, 4))
    model.fit(x, np.zeros((16, 5)), verbose=0, callbacks=[ClusterWeights(4)])
    found = [len(np.unique(w)) for w in model.get_weights() if w.ndim > 1]
    assert found == [4, 4, 4]


def test_in_a_distiller_on_a_quantized_student(fit, data):
    scheme = tfcompress.QuantizationScheme(tfcompress.UniformQuantizer(8, "tensor"))
    student = tfcompress.quantize_aware(mlp(), scheme)
    teacher = mlp(1)
    before = [w.copy() for w in teacher.get_weights()]
    loss = keras.distillation.LogitsDistillation(3.0)
    distiller = compiled(tfcompress.Distiller(teacher, student, loss))
    prune = tfcompress.PruneWeights(0.5)
    fit(distiller, prune, ClusterWeights(CLUSTERS, begin_step=0.5))
    final = tfcompress.finalize(student)
    assert distinct(final) == [CLUSTERS] * 3
    for one, other in zip(before, teacher.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 1}, r"`num_clusters` must be .*Received: 1\."),
        ({"num_clusters": True}, "`num_clusters` must be"),
        ({"num_clusters": {"first": 0}}, r"Received: 0\."),
        ({"initialization": "random"}, "one of 'kmeans\\+\\+', 'linear', 'density'"),
        ({"members": "free"}, "'fixed' or 'trained'"),
        ({"scope": "model"}, "'layer' or 'global'"),
        ({"begin_step": -1}, "`begin_step` must be"),
        ({"begin_step": 1.5}, "`begin_step` must be"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClusterWeights(**arguments)


def not_a_number(model):
    model.layers[1].kernel.assign(np.full((16, 10), np.nan))


def all_zero(model):
    model.layers[1].kernel.assign(np.zeros((16, 10)))


@pytest.mark.parametrize(
    ("arguments", "spoil", "message"),
    [
        ({"num_clusters": 40}, None, "'logits' has fewer weights than clusters"),
        ({"filters": "nowhere"}, None, "`filters` match no layer"),
        ({"num_clusters": {"nowhere": 4}}, None, "`filters` match no layer"),
        ({}, not_a_number, "Cannot cluster 'second': .* 160 of 160 weights are NaN"),
        ({}, all_zero, "Cannot cluster 'second': all of its weights are zero"),
    ],
)
def test_models_that_cannot_be_clustered_stay_as_they_were(
    fit, arguments, spoil, message
):
    model = compiled(mlp())
    if spoil:
        spoil(model)
    before = [w.copy() for w in model.get_weights()]
    with pytest.raises(ValueError, match=message):
        fit(model, ClusterWeights(**arguments))
    for one, other in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, other)
    assert "apply" not in vars(model.optimizer)
    assert all(kernel.constraint is None for kernel in kernels(model))


def test_a_fit_that_died_leaves_nothing_to_the_next(fit):
    model = compiled(mlp())

    class Die(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, ClusterWeights(CLUSTERS), Die())
    fit(model, keras.callbacks.Callback())
    assert min(distinct(model)) > 20
    assert "apply" not in vars(model.optimizer)


def test_values_of_attention_and_of_pruned_kernels_stay_shared(rng):
    inputs = keras.Input((6, 8), name="x")
    seen = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    read = keras.layers.Bidirectional(keras.layers.LSTM(6))(seen)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(read))
    model.compile("adam", "mse")
    data = rng.normal(size=(64, 6, 8)).astype("float32")
    targets = rng.normal(size=(64, 3)).astype("float32")
    schedule = tfcompress.PolynomialSparsity(0.0, 0.7, frequency=1)
    model.fit(
        data,
        targets,
        epochs=4,
        verbose=0,
        callbacks=[tfcompress.PruneWeights(schedule)],
    )
    # Biases of attention are no kernels: no word of them, which would be an error here.
    model.fit(
        data, targets, epochs=2, verbose=0, callbacks=[tfcompress.ClusterWeights(8)]
    )
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    kernels = [w for w in final.weights if w.name == "kernel"]
    assert len(kernels) > 4
    assert {w.path: len(np.unique(w)) for w in kernels if len(np.unique(w)) > 8} == {}
