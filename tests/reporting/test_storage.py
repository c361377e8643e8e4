"""Size accounting: entropy, zip and packed bytes of models and artifacts."""

import zlib

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress.reporting import storage


@pytest.fixture(scope="module")
def model():
    generator = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((64,), name="x"), layers.Dense(100, name="logits")], name="net"
    )
    kernel = np.where(
        generator.random((64, 100)) < 0.9,
        0,
        generator.choice([-0.5, 0.25, 1.0, 2.0], (64, 100)),
    )
    model.layers[0].kernel.assign(kernel)
    return model


def entropy(kernel):
    _, counts = np.unique(kernel, return_counts=True)
    return -(counts * np.log2(counts / kernel.size)).sum() / 8


def test_a_layer_is_measured_as_the_formula_says(model):
    found = storage(model)
    [layer] = found.layers
    kernel = model.layers[0].kernel.numpy()
    density = np.mean(kernel != 0)
    assert (layer.count, layer.bits, layer.values) == (6400, 32, 4)
    assert layer.sparsity == pytest.approx(1 - density)
    assert layer.entropy_size == pytest.approx(entropy(kernel), abs=1)
    assert layer.value_bits == pytest.approx(2, abs=0.02)
    both = -density * np.log2(density) - (1 - density) * np.log2(1 - density)
    assert layer.position_bits == pytest.approx(both / density)
    assert layer.packed_size <= 1.1 * layer.entropy_size
    others = found.packed_size - layer.packed_size
    assert found.entropy_size == layer.entropy_size + others
    assert found.size == 4 * 6500
    assert found.packed_size <= layer.packed_size + 400


@pytest.mark.export
@pytest.mark.parametrize("format", ["tflite", "saved_model"])
def test_artifacts(model, tmp_path, format):
    path = tmp_path / ("net.tflite" if format == "tflite" else "net/1")
    artifact = tfcompress.export(model, path, format=format)
    found = storage(artifact)
    [layer] = [layer for layer in found.layers if layer.count == 6400]
    assert layer.entropy_size == storage(model).layers[0].entropy_size
    assert found.size == artifact.size
    zipped = sum(len(zlib.compress(file.read_bytes(), 9)) for file in artifact.files)
    assert found.zip_size == zipped
    packed = tfcompress.pack(artifact, tmp_path / "packed")
    assert found.packed_size == packed.size
    assert str(found).count("\n") == len(found.layers) + 2


def test_the_report_has_the_sizes_where_asked_for(model):
    plain = tfcompress.report(model)
    assert plain.rows[0].packed_size is None
    assert "packed" not in str(plain)
    row = tfcompress.report(model, packed=True).rows[0]
    assert row.packed_size == storage(model).packed_size
    assert row.packed_ratio == pytest.approx(row.size / row.packed_size)
    assert "packed bytes" in str(tfcompress.report(model, packed=True))


def test_something_else_is_refused():
    with pytest.raises(ValueError, match="Only models and artifacts can be measured"):
        storage(3.5)
    with pytest.raises(ValueError, match="is not built"):
        storage(keras.Sequential([layers.Dense(2)]))
