"""reconstruct: the right zeros, the best values, and the given model untouched."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.pruning.pruned import sparsity
from tfcompress import (
    CompressionWarning,
    InvalidArgumentError,
    UnsupportedLayerError,
)
from tfcompress.layers.matrix import rows
from tfcompress.pruning.least_squares import (
    largest,
    largest_of_groups,
    sparse_least_squares,
)
from tfcompress.pruning.patterns import NOfM
from tfcompress.pruning.reconstruction import reconstruct


def correlated(rng, n, width):
    """Inputs whose columns depend on each other, as those of real layers do."""
    return (rng.normal(size=(n, width // 2)) @ rng.normal(size=(width // 2, width))) + (
        0.1 * rng.normal(size=(n, width))
    )


def loss(x, dense, sparse):
    return float(np.sum((x @ dense - x @ sparse) ** 2))


def cut(dense, mask_of):
    return np.where(mask_of(dense), dense, 0.0)


def test_support_is_close_to_the_best_of_all(rng):
    x, dense = correlated(rng, 200, 8), rng.normal(size=(8, 1))
    gram = x.T @ x
    best = np.inf
    for kept in itertools.combinations(range(8), 4):
        part = x[:, kept]
        fitted = np.linalg.lstsq(part, x @ dense, rcond=None)[0]
        best = min(best, float(np.sum((x @ dense - part @ fitted) ** 2)))
    found = sparse_least_squares(gram, gram @ dense, dense, largest(4))
    assert np.count_nonzero(found) == 4
    assert loss(x, dense, found) <= 1.5 * best
    assert loss(x, dense, found) < 0.2 * loss(x, dense, cut(dense, largest(4)))


def test_values_are_the_best_on_their_support(rng):
    x, dense = correlated(rng, 300, 20), rng.normal(size=(20, 6))
    gram = x.T @ x
    found = sparse_least_squares(gram, gram @ dense, dense, largest(60))
    for column in range(6):
        kept = np.flatnonzero(found[:, column])
        fitted = np.linalg.solve(
            gram[np.ix_(kept, kept)], gram[kept] @ dense[:, column]
        )
        np.testing.assert_allclose(found[kept, column], fitted, rtol=1e-3, atol=1e-3)


def test_n_of_m_support(rng):
    x, dense = correlated(rng, 300, 16), rng.normal(size=(16, 6))
    gram = x.T @ x
    choose = largest_of_groups(2, 4)
    found = sparse_least_squares(gram, gram @ dense, dense, choose)
    assert set(np.sum(found.reshape(4, 4, 6) != 0, axis=1).ravel()) == {2}
    assert loss(x, dense, found) < 0.3 * loss(x, dense, cut(dense, choose))


ROWS = {
    "dense": (layers.Dense(5), (7,)),
    "dense on a sequence": (layers.Dense(5), (3, 7)),
    "conv1d": (layers.Conv1D(5, 3, strides=2, padding="same"), (9, 4)),
    "conv2d": (layers.Conv2D(5, (3, 2), strides=(2, 1)), (9, 8, 4)),
    "conv2d dilated": (layers.Conv2D(5, 3, dilation_rate=2, padding="same"), (9, 8, 4)),
    "einsum": (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (5, 4)),
    "einsum of two": (layers.EinsumDense("abcd,cde->abe", (None, 6)), (5, 2, 4)),
    "einsum with dots": (layers.EinsumDense("...x,xy->...y", 6), (5, 4)),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_times_kernel_is_the_layer(name, rng):
    layer, shape = ROWS[name]
    x = rng.normal(size=(2, *shape)).astype("float32")
    outputs = layer(x)
    found = rows(layer, x)
    product = found @ layer.kernel.numpy().reshape(found.shape[1], -1)
    np.testing.assert_allclose(product.reshape(outputs.shape), outputs, atol=1e-5)


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Reshape((36, 8))(x)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 4), name="heads")(x)
    x = layers.GlobalAveragePooling1D()(layers.Reshape((36, 8))(x))
    return keras.Model(inputs, layers.Dense(4, name="logits")(x))


@pytest.fixture
def images(rng):
    smooth = np.cumsum(rng.normal(size=(96, 8, 8, 4)), axis=1) / 3
    return smooth.astype("float32")


@pytest.mark.filterwarnings("ignore:.*no multiple")
@pytest.mark.parametrize(
    ("pattern", "target"), [("unstructured", 0.7), (NOfM(2, 4), 0.5)]
)
def test_every_layer_type_in_a_model(network, images, pattern, target):
    before, wanted = network.get_weights(), network.predict(images, verbose=0)
    pruned = reconstruct(network, images, target, pattern=pattern)
    for one, other in zip(network.get_weights(), before):
        np.testing.assert_array_equal(one, other)
    for name in ("conv", "heads", "logits"):
        kernel = pruned.get_layer(name).kernel
        assert sparsity(kernel) == pytest.approx(target, abs=0.02)
    error = np.mean((pruned.predict(images, verbose=0) - wanted) ** 2)
    cutting = keras.models.clone_model(network)
    cutting.set_weights(before)
    for name in ("conv", "heads", "logits"):
        kernel = cutting.get_layer(name).kernel
        limit = np.quantile(np.abs(kernel.numpy()), target)
        kernel.assign(np.where(np.abs(kernel.numpy()) > limit, kernel.numpy(), 0))
    cut_error = np.mean((cutting.predict(images, verbose=0) - wanted) ** 2)
    assert error < 0.25 * cut_error


def test_attention_inside_a_model(rng):
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = keras.Model(inputs, x)
    x = rng.normal(size=(64, 6, 8)).astype("float32")
    pruned = reconstruct(model, x, 0.5, filters="attention")
    for part in ("query", "key", "value", "attention_output"):
        matching = [v for v in pruned.weights if v.path.endswith(f"{part}/kernel")]
        assert [sparsity(v) for v in matching] == [0.5]


@pytest.mark.parametrize("kind", ["data set", "labelled data set", "list"])
def test_data_in_other_forms(kind, images):
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Flatten(), layers.Dense(3, name="logits")]
    )
    data = tf.data.Dataset.from_tensor_slices(images).batch(32)
    if kind == "labelled data set":
        data = data.map(lambda x: (x, tf.zeros(32)))
    if kind == "list":
        data = [(images[:50], None), (images[50:], None)]
    expected = reconstruct(model, images, 0.5).layers[-1].kernel
    found = reconstruct(model, data, 0.5).layers[-1].kernel
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert isinstance(reconstruct(model, images, 0.0), keras.Sequential)


def test_a_shared_layer_sees_all_its_inputs(rng):
    shared = layers.Dense(6, name="shared")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, shared(shared(inputs)))
    x = rng.normal(size=(64, 6)).astype("float32")
    pruned = reconstruct(model, x, 0.5)
    assert sparsity(pruned.get_layer("shared").kernel) == 0.5


def small():
    return keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Flatten(), layers.Dense(3, name="logits")]
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "`data` is empty"),
        (np.zeros((0, 8, 8, 4)), "`data` is empty"),
        (iter([1]), "can be read only once"),
        (None, "cannot be read"),
        (np.full((4, 8, 8, 4), np.nan, "float32"), "inputs of layer 'logits' are not"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(InvalidArgumentError, match=message):
        reconstruct(small(), data, 0.5)


def test_bad_weights(images):
    model = small()
    model.layers[-1].kernel.assign(np.full((256, 3), np.nan))
    with pytest.raises(InvalidArgumentError, match="'logits' has NaN or infinite"):
        reconstruct(model, images, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": 0.7, "pattern": "n_of_m"}, "final sparsity 0.5"),
        ({"sparsity": 0.7, "pattern": "block"}, "cannot make this pattern"),
        ({"sparsity": 0.7, "filters": "conv"}, "match no layer"),
    ],
)
def test_bad_arguments(arguments, message, images):
    with pytest.raises(InvalidArgumentError, match=message):
        reconstruct(small(), images, **arguments)


def test_other_layers_are_named(images):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(4, 1, name="pointwise"),
        ]
    )
    with pytest.warns(CompressionWarning, match=r"least squares knows .*: depthwise"):
        pruned = reconstruct(model, images, 0.5)
    assert sparsity(pruned.get_layer("depthwise").kernel) == 0.0
    assert sparsity(pruned.get_layer("pointwise").kernel) == 0.5
    with pytest.raises(UnsupportedLayerError, match="depthwise"):
        reconstruct(model, images, 0.5, filters="depthwise")


def test_progress_is_shown_if_it_is_asked_for(rng, capsys):
    dense = [keras.layers.Dense(4, name=f"d{i}") for i in range(3)]
    model = keras.Sequential([keras.Input((4,)), *dense])
    x = rng.normal(size=(100, 4))
    reconstruct(model, x, 0.5)
    assert capsys.readouterr().out == ""
    reconstruct(model, x, 0.5, verbose=1)
    assert "3/3" in capsys.readouterr().out
