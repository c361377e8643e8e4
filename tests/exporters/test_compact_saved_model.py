"""weights="compact": a smaller SavedModel that computes the very same numbers."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tests.exporters.c_api import run_in_c_api
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters import export, load
from tfcompress.exporters.compact import as_codes

L = keras.layers
pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def model():
    generator = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            L.Conv2D(32, 3, activation="relu", name="bytes"),
            L.GlobalAveragePooling2D(),
            L.Dense(128, activation="relu", name="halves"),
            L.Dense(64, activation="relu", name="codes"),
            L.Dense(16, name="floats"),
        ]
    )

    def kernel(name):
        return model.get_layer(name).kernel

    scale = (generator.uniform(0.5, 2, 32) / 127).astype("float32")
    integers = generator.integers(-127, 128, kernel("bytes").shape)
    integers[0, 0, 0] = 127
    kernel("bytes").assign(integers.astype("float32") * scale)
    shape = kernel("halves").shape
    kernel("halves").assign(generator.choice(generator.normal(size=15), shape))
    shape = kernel("codes").shape
    kernel("codes").assign(generator.choice(generator.normal(size=200), shape))
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compact")
    plain = export(model, folder / "plain", format="saved_model")
    return plain, export(
        model, folder / "compact", format="saved_model", weights="compact"
    )


def stored(artifact):
    """The arrays of the checkpoint, by what Keras calls the weights."""
    reader = tf.train.load_checkpoint(str(artifact.path / "variables" / "variables"))
    return {
        _path(name): reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith("variables_/")
    }


def _path(name):
    # Keras may put the name of the model in front.
    return re.sub(r"^sequential(_\d+)?/", "", name.split("/")[1].replace(".S", "/"))


def test_weights_are_rebuilt_to_the_last_bit(model):
    kernels = {layer.name: layer.kernel for layer in model.layers if layer.weights}
    found = {name: as_codes(kernel.numpy()) for name, kernel in kernels.items()}
    kinds = {name: codes and sorted(codes.parts) for name, codes in found.items()}
    assert kinds == {
        "bytes": ["integers"],
        "halves": ["pairs", "values"],
        "codes": ["codes", "values"],
        "floats": None,
    }
    assert found["halves"].parts["pairs"].size == kernels["halves"].numpy().size / 2
    for name, codes in found.items():
        if codes is not None:
            tensors = {part: tf.constant(a) for part, a in codes.parts.items()}
            made = codes.make(tensors).numpy()
            kernel = kernels[name].numpy()
            np.testing.assert_array_equal(made.view("uint32"), kernel.view("uint32"))


@pytest.mark.parametrize("shape", [(33, 17), (34, 17), (17, 34), (3, 3, 3, 20)])
def test_half_bytes_keep_the_shape_that_they_can(shape, rng):
    weight = rng.integers(0, 5, shape).astype("float32") + 0.25
    codes = as_codes(weight)
    parts = codes.parts
    assert len(shape) == (parts["pairs"] if "pairs" in parts else parts["codes"]).ndim
    made = codes.make({part: tf.constant(array) for part, array in parts.items()})
    np.testing.assert_array_equal(made.numpy(), weight)


def test_it_is_smaller_and_computes_the_same(model, exported, rng):
    plain, compact = exported
    saved = plain.size - compact.size
    kernels = 864 * 3 + 4096 * 3.5 + 8192 * 3
    # What rebuilds, the values, and two variables for one to save and restore.
    assert saved > kernels - 12_000
    images = rng.normal(size=(5, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(load(compact)(images), load(plain)(images))
    arrays = stored(compact)
    # Floats that are made when the model is loaded are not there.
    assert {name: array.size for name, array in arrays.items() if "codes/" in name} == {
        "codes/kernel/codes": 8192,
        "codes/kernel/values": 200,
        "codes/bias": 64,
    }


def test_it_loads_in_the_c_api_without_python(exported, rng):
    _, compact = exported
    images = rng.normal(size=(2, 16, 16, 3)).astype("float32")
    (found,) = run_in_c_api(compact, {"image": images}).values()
    np.testing.assert_allclose(found, load(compact)(images), atol=1e-6)


def test_a_pruned_clustered_and_quantized_model(tmp_path, rng):
    scheme = tfcompress.QuantizationScheme(tfcompress.UniformQuantizer(8, "tensor"))
    dense = keras.Sequential([keras.Input((64,), name="x"), L.Dense(128, name="y")])
    model = tfcompress.quantize_aware(dense, scheme)
    model.compile("adam", "mse")
    x = rng.normal(size=(64, 64)).astype("float32")
    callbacks = [tfcompress.PruneWeights(0.8), tfcompress.ClusterWeights(16)]
    model.fit(x, np.zeros((64, 128)), verbose=0, epochs=2, callbacks=callbacks)
    final = tfcompress.finalize(model)
    compact = export(final, tmp_path / "c", format="saved_model", weights="compact")
    # A quantized model is compact in any case, and as small as the option makes it.
    same = export(final, tmp_path / "s", format="saved_model")
    plain = export(dense, tmp_path / "p", format="saved_model")
    assert abs(same.size - compact.size) < 100  # names are numbered
    # Beside the float model: its graph also rounds.
    assert plain.size - compact.size > 64 * 128 * 2.2
    np.testing.assert_array_equal(load(compact)(x), final.predict(x, verbose=0))


def test_kernels_of_finalized_models_are_bytes(tmp_path, rng):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="x"),
            L.Conv2D(32, 3, name="conv"),
            L.Flatten(name="flat"),
            L.Dense(64, name="y"),
        ]
    )
    x = rng.normal(size=(16, 8, 8, 3)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, x, "w8a8"))
    artifact = export(final, tmp_path / "s", format="saved_model")
    kinds = {name: array.dtype for name, array in stored(artifact).items()}
    assert {name for name, kind in kinds.items() if kind == "int8"} == {
        "conv/conv/kernel/integers",
        "y/y/kernel/integers",
    }


def test_the_option_is_checked(model, tmp_path):
    with pytest.raises(InvalidArgumentError, match="'variables' or 'compact'"):
        export(model, tmp_path / "x", format="saved_model", weights="zip")


def test_a_report_counts_what_is_stored_smaller(model, tmp_path):
    kernel = model.get_layer("codes").kernel
    before = kernel.numpy()
    kernel.assign(np.where(np.arange(64) % 2, before, 0))
    files = [
        export(model, tmp_path / weights, format="saved_model", weights=weights)
        for weights in ("variables", "compact")
    ]
    kernel.assign(before)
    plain, compact = tfcompress.report(*files).rows
    assert plain.sparsity == compact.sparsity > 0.2
    counts = [[layer.count for layer in row.layers] for row in (plain, compact)]
    assert sorted(counts[0]) == sorted(counts[1])
    assert sorted(layer.bits for layer in compact.layers) == [4, 8, 8, 32]
    assert plain.weight_size == 4 * sum(counts[0])
