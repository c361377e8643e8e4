"""`ops.einsum` of tensors in integers, as attention is often written."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress

pytestmark = pytest.mark.export
MATRIX = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")


def heads(x):
    return ops.reshape(x, (-1, 6, 2, 2))


def attention(x, y):
    scores = ops.einsum("bqhd,bkhd->bhqk", heads(x), heads(y)) * 0.5
    seen = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), heads(y))
    return ops.reshape(seen, (-1, 6, 4))


PRODUCTS = {
    "heads": attention,
    "scores": lambda x, y: ops.einsum("bqd,bkd->bqk", x, y),
    "turned": lambda x, y: ops.einsum("bqd,bkd->bkq", x, y),
    "dots": lambda x, y: ops.einsum("...qd,...kd->...qk", x, y),
    "vectors": lambda x, y: ops.einsum("btd,btd->bt", x, y),
    "two axes": lambda x, y: ops.einsum("bqhd,bkhd->bqk", heads(x), heads(y)),
    "weighted mean": lambda x, y: ops.einsum("btd,bt->bd", x, y[..., 0]),
    "matrix": lambda x, y: ops.einsum("btd,de->bte", x, MATRIX),
    "matrix first": lambda x, y: ops.einsum("de,btd->bte", MATRIX, x),
}
OTHERS = {
    "outer": (lambda x, y: ops.einsum("bi,bj->bij", x[:, 0], y[:, 0]), "no product"),
    "three": (
        lambda x, y: ops.einsum("bi,bi,bi->b", x[:, 0], y[:, 0], y[:, 1]),
        "3 tensors",
    ),
    "one": (lambda x, y: ops.einsum("btd->bdt", x), "1 tensors"),
}


def model_of(product):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 4), name="x")
    first, second = layers.Dense(4)(inputs), layers.Dense(4)(inputs)
    return keras.Model(inputs, product(first, second))


@pytest.mark.sweep(4)
@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_products_of_two_are_integers(product, tmp_path, rng):
    model, data = model_of(product), rng.normal(size=(96, 6, 4)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    wanted, got = model.predict(data, verbose=0), final.predict(data, verbose=0)
    assert np.abs(wanted - got).max() < 0.03 * np.ptp(wanted)
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    assert artifact.integer_coverage == 1.0
    difference = np.abs(tfcompress.load(artifact.path)(data) - got).max()
    assert difference < 1e-3 * artifact.outputs[0].step


@pytest.mark.parametrize(("product", "reason"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_such_product_stays_in_float(product, reason, rng):
    data = rng.normal(size=(8, 6, 4)).astype("float32")
    with pytest.warns(tfcompress.CompressionWarning, match=f"Einsum.*{reason}"):
        tfcompress.calibrate(model_of(product), data)


@pytest.mark.parametrize("size", [2, (4, 2)])
def test_patches_side_by_side_are_integers(size, tmp_path, rng):
    inputs = keras.Input((8, 8, 3), name="image")
    patches = ops.image.extract_patches(layers.ReLU()(inputs), size=size)
    model = keras.Model(inputs, layers.Dense(5)(patches))
    data = rng.normal(size=(32, 8, 8, 3)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    assert artifact.integer_coverage == 1.0
    wanted = model.predict(data, verbose=0)
    far = np.abs(wanted - final.predict(data, verbose=0)).max()
    assert far < 0.03 * np.ptp(wanted)
    tfcompress.verify(artifact, final, data).raise_if_failed()
