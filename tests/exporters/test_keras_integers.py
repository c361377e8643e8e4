"""Models that Keras itself has quantized: a SavedModel computes them, nothing else."""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.exporters.artifact import EXPORTERS

L = keras.layers
# Keras warns of layers that have nothing to quantize.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")


def network(kind):
    keras.utils.set_random_seed(0)
    if kind == "Embedding":
        words = keras.Input((8,), dtype="int32", name="words")
        x = L.Flatten()(L.Embedding(300, 64, name="rounded")(words))
    elif kind == "EinsumDense":
        rows = keras.Input((4, 64), name="rows")
        layer = L.EinsumDense("abc,cd->abd", (None, 256), bias_axes="d", name="rounded")
        return keras.Model(rows, layer(rows))
    else:
        rows = keras.Input((64,), name="rows")
        return keras.Model(rows, L.Dense(256, name="rounded")(rows))
    return keras.Model(words, x)


KINDS = ("Dense", "EinsumDense", "Embedding")


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted({*EXPORTERS.names()} - {"saved_model"}))
def test_other_formats_refuse_them_by_name(name, kind, mode, tmp_path):
    model = network(kind)
    model.quantize(mode)
    with pytest.raises(tfcompress.CompressionError, match=rf"rounded \({mode}\)"):
        tfcompress.export(model, tmp_path / "m", format=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.export
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_computes_them_and_says_what_it_is(kind, mode, tmp_path):
    model = network(kind)
    plain = tfcompress.export(model, tmp_path / "plain" / "1", format="saved_model")
    model.quantize(mode)
    with pytest.warns(tfcompress.CompressionWarning, match=rf"rounded \({mode}\)"):
        made = tfcompress.export(model, tmp_path / "made" / "1", format="saved_model")
    assert made.size < plain.size
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, *model.input_shape[1:])).astype("float32")
    if kind == "Embedding":
        x = rng.integers(0, 300, (5, 8)).astype("int32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(tfcompress.load(made)(x), expected, atol=1e-6)
