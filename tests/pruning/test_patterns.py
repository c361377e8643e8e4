"""Patterns: where the zeros lie in kernels of every layer type."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.pruning.pruned import compiled
from tfcompress import (
    CompressionWarning,
    InvalidArgumentError,
    Kernel,
    PolynomialSparsity,
    PruneWeights,
    UnsupportedLayerError,
)
from tfcompress.core.callback import ProjectionChain
from tfcompress.layers import kernels_of
from tfcompress.pruning.criteria import CRITERIA
from tfcompress.pruning.kernels import PrunedKernel
from tfcompress.pruning.masks import global_masks, layer_masks
from tfcompress.pruning.patterns import (
    PATTERNS,
    Block,
    Channel,
    NOfM,
    from_matrix,
    to_matrix,
)
from tfcompress.pruning.sites import select_sites

# Layer, input shape, and its kernels as (inputs, outputs) by hand.
LAYERS = {
    "dense": (lambda: layers.Dense(16), (8,), lambda k: k[None]),
    "conv1d": (lambda: layers.Conv1D(16, 3), (9, 8), lambda k: k),
    "conv2d": (
        lambda: layers.Conv2D(16, 3),
        (9, 9, 8),
        lambda k: k.reshape(9, 8, 16),
    ),
    "conv3d": (
        lambda: layers.Conv3D(16, 2),
        (4, 4, 4, 8),
        lambda k: k.reshape(8, 8, 16),
    ),
    "conv2d_transpose": (
        lambda: layers.Conv2DTranspose(16, 3),
        (4, 4, 8),
        lambda k: k.reshape(9, 16, 8).swapaxes(1, 2),
    ),
    "einsum": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 4)),
        (5, 8),
        lambda k: k.reshape(1, 8, 16),
    ),
    "einsum_two_inputs": (
        lambda: layers.EinsumDense("abcd,cde->abe", (None, 16)),
        (5, 2, 4),
        lambda k: k.reshape(1, 8, 16),
    ),
    "lstm": (lambda: layers.LSTM(8), (5, 8), lambda k: k[None]),
    "gru": (lambda: layers.GRU(8), (5, 8), lambda k: k[None]),
}


def built(name):
    make, shape, by_hand = LAYERS[name]
    keras.utils.set_random_seed(1)
    layer = make()
    layer.build((None, *shape))
    return [(kernel, v.numpy(), by_hand(v.numpy())) for kernel, v in kernels_of(layer)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_kernel_as_a_matrix_and_back(name):
    for kernel, values, expected in built(name):
        matrix = to_matrix(ops.array(values), kernel)
        np.testing.assert_array_equal(matrix, expected)
        np.testing.assert_array_equal(from_matrix(matrix, values.shape, kernel), values)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8)])
def test_n_of_m_keeps_the_best_n_of_each_group_of_inputs(name, n, m):
    for kernel, values, by_hand in built(name):
        pattern = NOfM(n, m)
        assert pattern.misfit(values.shape, kernel) is None
        units = pattern.reduce(ops.array(np.abs(values)), kernel)
        (mask,) = layer_masks([units], pattern.sparsity)
        mask = pattern.expand(mask, values.shape, kernel)
        found = to_matrix(ops.cast(mask, "int32"), kernel).numpy()
        window, inputs, outputs = by_hand.shape
        groups = np.abs(by_hand).reshape(window, inputs // m, m, outputs)
        best = np.argsort(np.argsort(-groups, axis=2), axis=2) < n
        np.testing.assert_array_equal(found, best.reshape(by_hand.shape))


def test_n_of_m_of_equal_weights_still_keeps_exactly_n():
    units = NOfM(2, 4).reduce(ops.ones((8, 3)), Kernel("kernel"))
    (mask,) = layer_masks([units], 0.5)
    assert np.sum(mask.numpy().reshape(2, 4, 3), axis=1).tolist() == [[2] * 3] * 2


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (8, 1)])
def test_blocks_go_as_a_whole_and_by_their_mean(name, shape):
    for kernel, values, by_hand in built(name):
        pattern = Block(shape)
        units = pattern.reduce(ops.array(np.abs(values)), kernel)
        window, inputs, outputs = by_hand.shape
        split = (window, inputs // shape[0], shape[0], outputs // shape[1], shape[1])
        means = np.abs(by_hand).reshape(split).mean(axis=(2, 4))
        np.testing.assert_allclose(units, means, rtol=1e-5)
        (mask,) = layer_masks([units], 0.5)
        mask = pattern.expand(mask, values.shape, kernel)
        found = to_matrix(ops.cast(mask, "int32"), kernel).numpy().reshape(split)
        assert set(found.sum(axis=(2, 4)).ravel()) == {0, shape[0] * shape[1]}
        assert found.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in ("lstm", "gru")])
def test_channels_go_by_the_mean_of_their_weights(name):
    for kernel, values, by_hand in built(name):
        units = Channel().reduce(ops.array(np.abs(values)), kernel)
        means = np.abs(by_hand).mean(axis=(0, 1))
        np.testing.assert_allclose(units, means, rtol=1e-5)
        mask = Channel().expand(units > 0.05, values.shape, kernel)
        found = to_matrix(ops.cast(mask, "bool"), kernel).numpy()
        np.testing.assert_array_equal(found, np.broadcast_to(means > 0.05, found.shape))


@pytest.mark.parametrize(("criterion", "factor"), [("magnitude", 1), ("snip", 12)])
def test_shares_of_the_loss_add_up_over_a_unit(criterion, factor):
    model = keras.Sequential([keras.Input((12,)), layers.Dense(16)])
    (site,) = select_sites(model)
    kernel = PrunedKernel(site, CRITERIA.get(criterion), Channel(), goes_on=False)
    kernel.criterion.score = lambda weights: ops.ones((12, 16))
    kernel.chain = ProjectionChain(None)
    assert set(kernel.scores().numpy().tolist()) == {factor}


def test_depthwise_channels_and_embedding_rows():
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=2)
    depthwise.build((None, 8, 8, 6))
    ((kernel, variable),) = kernels_of(depthwise)
    units = Channel().reduce(ops.abs(variable), kernel)
    assert units.shape == (12,)
    embedding = layers.Embedding(20, 4)
    embedding.build()
    ((kernel, variable),) = kernels_of(embedding)
    means = np.abs(variable.numpy()).mean(axis=1)
    np.testing.assert_allclose(
        Channel().reduce(ops.abs(variable), kernel), means, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("share", "kept"), [(0.0, 32), (0.4, 24), (0.5, 16), (0.75, 8), (0.99, 8)]
)
def test_channels_are_kept_in_multiples(share, kept, rng):
    scores = [ops.array(rng.random(32, dtype="float32"))]
    for masks in (layer_masks(scores, share, 8), global_masks(scores, share, 8)):
        assert int(np.sum(masks[0])) == kept


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(16, 3, name="conv", bias_initializer="ones")(inputs)
    x = layers.BatchNormalization(name="norm", beta_initializer="ones")(x)
    x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(24, activation="tanh", bias_initializer="ones", name="hidden")(x)
    outputs = layers.Softmax()(layers.Dense(16, name="logits")(x))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.fixture
def images(rng):
    return rng.normal(size=(32, 8, 8, 4)).astype("float32"), rng.integers(0, 16, 32)


def test_a_channel_goes_with_its_bias_and_norm_and_puts_out_zero(images):
    model = network()
    plan = PolynomialSparsity(0.0, 0.5, frequency=1)
    with pytest.warns(CompressionWarning, match="model's outputs: logits"):
        model.fit(
            *images,
            batch_size=8,
            epochs=2,
            verbose=0,
            callbacks=[PruneWeights(plan, pattern="channel")],
        )
    features = keras.Model(model.input, model.get_layer("norm").output)
    dead = np.all(features.predict(images[0], verbose=0) == 0, axis=(0, 1, 2))
    assert dead.sum() == 8
    conv = model.get_layer("conv")
    np.testing.assert_array_equal(dead, np.all(conv.kernel.numpy() == 0, (0, 1, 2)))
    np.testing.assert_array_equal(dead, conv.bias.numpy() == 0)
    hidden = model.get_layer("hidden")
    assert np.sum(np.all(hidden.kernel.numpy() == 0, axis=0)) == 8  # 12, rounded up
    assert np.sum(hidden.bias.numpy() == 0) == 8
    assert not np.any(model.get_layer("logits").kernel.numpy() == 0)


@pytest.mark.parametrize("recurrent", [layers.LSTM, layers.GRU])
def test_a_recurrent_unit_goes_with_all_its_gates(recurrent, rng):
    model = keras.Sequential(
        [
            keras.Input((5, 6)),
            recurrent(16, return_sequences=True, name="rnn"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3, name="logits"),
        ]
    )
    x, y = rng.normal(size=(32, 5, 6)).astype("float32"), rng.integers(0, 3, 32)
    prune = PruneWeights(
        PolynomialSparsity(0.0, 0.5, frequency=1), pattern="channel", filters="rnn"
    )
    compiled(model).fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[prune])
    sequence = keras.Model(model.inputs, model.get_layer("rnn").output)
    dead = np.all(sequence.predict(x, verbose=0) == 0, axis=(0, 1))
    assert dead.sum() == 8


def test_n_of_m_in_a_fit_grows_by_one_weight_of_each_group(images):
    model = network()
    plan = PolynomialSparsity(0.0, 0.5, 0, 6, power=1, frequency=3)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = model.get_layer("hidden").kernel.numpy().reshape(4, 4, 24)
            seen.append(set(np.sum(kernel != 0, axis=1).ravel().tolist()))

    prune = PruneWeights(plan, pattern=NOfM(2, 4))
    model.fit(*images, batch_size=4, epochs=1, verbose=0, callbacks=[prune, Watch()])
    assert seen == [{4}] * 3 + [{3}] * 3 + [{2}] * 2
    kernel = model.get_layer("conv").kernel.numpy()
    assert set(np.sum(kernel != 0, axis=2).ravel().tolist()) == {2}


def test_misfits_are_named_with_their_reason():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, name="first"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(8, 1, name="pointwise"),
        ]
    )
    sites = select_sites(model)
    with pytest.warns(CompressionWarning) as caught:
        kept = NOfM(2, 4).fitting(sites, asked_for=False)
    assert [site.path for site in kept] == ["pointwise"]
    assert [str(w.message).split(". ")[0] for w in caught] == [
        "Not pruned, because their input channels are no multiple of 4: first",
        "Not pruned, because they have no axis of input channels for N:M: depthwise",
    ]
    with pytest.raises(UnsupportedLayerError, match=r"no multiple of 4.*first"):
        NOfM(2, 4).fitting(sites[:1], asked_for=True)


def test_no_kernel_at_all_fits():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="six")])
    with (
        pytest.warns(CompressionWarning, match="no multiples of 4x4: six"),
        pytest.raises(InvalidArgumentError, match=r"No kernel can have .* Block"),
    ):
        Block((4, 4)).fitting(select_sites(model), asked_for=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NOfM(4, 4), "1 <= n < m"),
        (lambda: NOfM(0, 4), "1 <= n < m"),
        (lambda: NOfM(1.0, 4), "1 <= n < m"),
        (lambda: Block((4,)), "two positive sizes"),
        (lambda: Block((0, 4)), "two positive sizes"),
        (lambda: Channel(0), "positive number of channels"),
        (lambda: PruneWeights(0.6, pattern="n_of_m"), "final sparsity 0.5"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


@pytest.mark.parametrize("pattern", [NOfM(1, 3), Block((4, 1)), Channel(4)])
def test_config_round_trip(pattern):
    again = PATTERNS.get(keras.saving.serialize_keras_object(pattern))
    assert type(again) is type(pattern)
    assert again.get_config() == pattern.get_config()
