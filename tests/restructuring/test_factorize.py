"""factorize: exact at full rank, smaller at low rank, and never larger."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfcompress
from tfcompress.low_rank.factorize import factorize


def low_rank(layer, rank, rng):
    """Gives a layer a kernel of that rank (in the axes that are factorized)."""
    weights = layer.get_weights()
    shape = weights[0].shape
    if len(shape) == 4:
        core = rng.normal(size=(*shape[:2], rank, rank))
        a, b = rng.normal(size=(shape[2], rank)), rng.normal(size=(rank, shape[3]))
        weights[0] = np.einsum("hwrs,ir,so->hwio", core, a, b) / rank
    else:
        flat = rng.normal(size=(shape[0], rank)) @ rng.normal(
            size=(rank, np.prod(shape[1:], dtype=int))
        )
        weights[0] = flat.reshape(shape) / rank
    layer.set_weights(weights)


CASES = {
    "dense": ((24,), layers.Dense(20, activation="relu", name="l")),
    "dense on steps": ((5, 24), layers.Dense(20, use_bias=False, name="l")),
    "einsum": ((5, 24), layers.EinsumDense("abc,cde->abde", (None, 4, 6), name="l")),
    "einsum dots": (
        (5, 24),
        layers.EinsumDense("...c,cd->...d", 20, bias_axes="d", name="l"),
    ),
    "conv": ((9, 8, 16), layers.Conv2D(20, 3, strides=2, padding="same", name="l")),
    "dilated": ((9, 8, 16), layers.Conv2D(20, (3, 2), dilation_rate=2, name="l")),
    "pointwise": ((9, 8, 16), layers.Conv2D(20, 1, strides=2, name="l")),
}


@pytest.mark.parametrize("conv", ["tucker", "spatial"])
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_of_low_rank_keeps_its_outputs(rng, case, conv):
    shape, layer = CASES[case]
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([keras.Input(shape), layer])
    spatial = conv == "spatial" and case in ("conv", "dilated")
    if spatial:
        weights = layer.get_weights()
        h, w, i, o = weights[0].shape
        flat = rng.normal(size=(h * i, 3)) @ rng.normal(size=(3, w * o))
        weights[0] = flat.reshape(h, i, w, o).transpose(0, 2, 1, 3)
        layer.set_weights(weights)
    else:
        low_rank(layer, 3, rng)
    small = factorize(model, rank=3, conv=conv)
    assert small.count_params() < model.count_params()
    assert tfcompress.macs(small) < tfcompress.macs(model)
    x = rng.normal(size=(2, *shape)).astype("float32")
    np.testing.assert_allclose(small(x), model(x), rtol=1e-3, atol=1e-3)
    assert small.layers[-1].name == "l"


def test_an_embedding_with_its_mask(rng):
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(50, 16, mask_zero=True, name="words"),
            layers.GlobalAveragePooling1D(),
        ]
    )
    low_rank(model.layers[0], 2, rng)
    small = factorize(model, energy=0.9999)
    x = np.array([[1, 5, 7, 0, 0, 0], [9, 9, 2, 3, 0, 0]])
    np.testing.assert_allclose(small(x), model(x), atol=1e-5)
    assert small.get_layer("words_reduced").embeddings.shape == (50, 2)


def test_it_is_the_best_of_its_rank(rng):
    model = keras.Sequential([keras.Input((30,)), layers.Dense(40)])
    kernel = model.layers[0].kernel.numpy()
    small = factorize(model, rank=5)
    product = ops.matmul(*[layer.kernel for layer in small.layers[1:]])
    values = np.linalg.svd(kernel, compute_uv=False)
    error = np.square(kernel - product).sum()
    assert error == pytest.approx(np.square(values[5:]).sum(), rel=1e-4)


def correlated(shape, rng):
    """Returns inputs whose channels say nearly the same, with a mean of one."""
    channels = shape[-1]
    mixed = rng.normal(size=(channels, channels)) * 0.6 ** np.arange(channels)[:, None]
    return (rng.normal(size=(100, *shape)) @ mixed + 1).astype("float32")


@pytest.mark.parametrize("conv", ["tucker", "spatial"])
@pytest.mark.parametrize("case", CASES)
def test_data_say_what_is_kept(rng, case, conv):
    shape, layer = CASES[case]
    config = {**layer.get_config(), "activation": None}
    model = keras.Sequential([keras.Input(shape), type(layer).from_config(config)])
    x = correlated(shape, rng)

    def lost(data):
        small = factorize(model, rank=4, conv=conv, data=data)
        return np.asarray(model(x)) - np.asarray(small(x))

    by_data, by_weights = lost(x), lost(None)
    assert np.square(by_data).sum() < 0.5 * np.square(by_weights).sum()
    if "einsum" not in case:  # the bias has the mean, also where there was none
        channels = tuple(range(by_data.ndim - 1))
        np.testing.assert_allclose(by_data.mean(channels), 0, atol=1e-4)


def test_it_keeps_the_principal_components_of_the_outputs(rng):
    model = keras.Sequential([keras.Input((30,)), layers.Dense(20)])
    x = correlated((30,), rng)
    small = factorize(
        model, rank=5, data=tf.data.Dataset.from_tensor_slices(x).batch(7)
    )
    outputs = np.asarray(model(x), "float64")
    values = np.linalg.svd(outputs - outputs.mean(0), compute_uv=False)
    error = np.square(outputs - np.asarray(small(x))).sum()
    assert error == pytest.approx(np.square(values[5:]).sum(), rel=1e-3)


def test_full_rank_loses_nothing_with_data(rng):
    layer = layers.Conv2D(20, 3, use_bias=False)
    model = keras.Sequential([keras.Input((9, 8, 16)), layer])
    low_rank(layer, 13, rng)
    x = correlated((9, 8, 16), rng)
    small = factorize(model, rank=13, data=x)
    np.testing.assert_allclose(small(x), model(x), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 16, 16, 3), "float32"), "`data` is empty"),
        (np.full((2, 16, 16, 3), np.nan, "float32"), "inputs of layer .* not finite"),
        (iter([np.zeros((2, 16, 16, 3))]), "can be read only once"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(ValueError, match=message):
        factorize(vgg(), rank=4, data=data)


def vgg():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="one"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="two"),
            layers.MaxPooling2D(4, name="pool"),
        ],
        name="features",
    )
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Flatten(name="flatten")(inner(image))
    shared = layers.Dense(512, activation="relu", name="shared")
    x = layers.Add(name="add")([shared(x), shared(layers.ReLU(name="r")(x))])
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="vgg")


@pytest.mark.parametrize("conv", ["tucker", "spatial"])
def test_targets_are_met_across_the_layers_of_nested_models(rng, conv):
    model = vgg()
    before = model.get_weights()
    x = rng.normal(size=(2, 16, 16, 3)).astype("float32")
    for share in (0.3, 0.6, 0.9):
        small = factorize(model, macs=share, conv=conv)
        reached = tfcompress.macs(small) / tfcompress.macs(model)
        assert share - 0.05 <= reached <= share
        small = factorize(model, size=share, conv=conv)
        reached = small.count_params() / model.count_params()
        assert share - 0.05 <= reached <= share
    assert small(x).shape == (2, 10)
    assert small.output_names == model.output_names
    # The shared layer is still one: called twice, stored once.
    assert [layer.name for layer in small.layers].count("shared") == 1
    small.compile("sgd", "mse")
    small.fit(x, np.zeros((2, 10)), verbose=0)
    for one, other in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_more_is_kept_where_it_matters(rng):
    """A layer of low rank is cut before one of full rank."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, name="simple"),
            layers.Dense(64, name="rich"),
        ]
    )
    low_rank(model.layers[0], 4, rng)
    small = factorize(model, size=0.7)
    names = [layer.name for layer in small.layers[1:]]
    assert names == ["simple_reduced", "simple", "rich"]


def test_no_layer_is_cut_to_nothing_for_the_others():
    model = keras.Sequential(
        [keras.Input((64,)), *[layers.Dense(64, name=name) for name in "abcd"]]
    )
    for seed, layer in enumerate(model.layers):
        # All directions weigh the same: cutting one layer to pieces saves as much
        # as cutting each a little.
        square = np.random.default_rng(seed).normal(size=(64, 64))
        layer.kernel.assign(np.linalg.qr(square)[0])
    small = factorize(model, size=0.5)
    ranks = [layer.units for layer in small.layers[1::2]]
    assert len(ranks) == 4
    assert max(ranks) - min(ranks) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "factorize needs one target.*Received: none"),
        ({"rank": 2, "energy": 0.5}, "rank=2, energy=0.5"),
        ({"rank": 0}, r"`rank` must be .*Received: 0\."),
        ({"rank": True}, "`rank` must be"),
        ({"rank": 600}, "no such rank.*Expected: a rank from 1 to 512"),
        ({"rank": 513, "filters": "shared"}, "a rank from 1 to 512"),
        ({"rank": 10, "filters": "logits"}, "would make layers larger.*logits"),
        ({"energy": 1.0}, "would make layers larger"),
        ({"energy": 0}, "`energy` must be a share"),
        ({"macs": 1.5}, "`macs` must be a share"),
        ({"macs": 1e-4}, "macs=0.0001 cannot be met.*Expected: macs >= 0.0"),
        ({"size": -1}, "`size` must be a share"),
        ({"rank": 4, "conv": "cp"}, "'tucker', 'spatial'"),
        ({"rank": 4, "filters": "nowhere"}, "`filters` match no layer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        factorize(vgg(), **arguments)


def test_weights_that_are_no_numbers():
    model = vgg()
    model.get_layer("logits").kernel.assign(np.full((512, 10), np.nan))
    with pytest.raises(ValueError, match="layer 'logits': 'kernel' is not finite"):
        factorize(model, rank=4)


@pytest.mark.parametrize("target", [{"rank": 3}, {"energy": 0.5}, {"macs": 0.5}])
def test_a_model_without_products_is_refused(target):
    model = keras.Sequential([keras.Input((8, 8)), keras.layers.LSTM(8, name="rnn")])
    with pytest.raises(ValueError, match=r"can be a product of smaller.*rnn \(LSTM\)"):
        factorize(model, **target)
    assert factorize(model, macs=1.0).count_params() == model.count_params()


def test_layers_that_would_grow_stay():
    model = vgg()
    small = factorize(model, rank=12)
    names = [layer.name for layer in small.layers]
    assert "logits_reduced" not in names
    assert "shared_reduced" in names


def test_progress_is_shown_if_it_is_asked_for(rng, capsys):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8)])
    x = rng.normal(size=(100, 8))
    factorize(model, rank=2, data=x)
    assert capsys.readouterr().out == ""
    factorize(model, rank=2, data=x, verbose=1)
    assert "2/2" in capsys.readouterr().out
