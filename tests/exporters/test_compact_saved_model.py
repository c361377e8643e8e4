"""weights="compact": a smaller SavedModel that computes the very same numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tests.exporters.c_api import run_in_c_api
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters import export, load
from tfcompress.exporters.compact import rebuilders

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


def test_weights_are_rebuilt_to_the_last_bit(model):
    found = rebuilders(model)
    assert [variable.path.split("/")[-2] for variable, _ in found] == [
        "bytes",
        "halves",
        "codes",
    ]
    for variable, rebuild in found:
        np.testing.assert_array_equal(rebuild(), variable)


def test_it_is_smaller_and_computes_the_same(model, exported, rng):
    plain, compact = exported
    saved = plain.size - compact.size
    kernels = 864 * 3 + 4096 * 3.5 + 8192 * 3
    assert saved > kernels - 8000  # the nodes that rebuild, and the values
    images = rng.normal(size=(5, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(load(compact)(images), load(plain)(images))
    names = {
        name
        for name, _ in tf.train.list_variables(
            str(compact.path / "variables" / "variables")
        )
    }
    assert len([n for n in names if n.startswith("variables_/")]) == 5


def test_it_loads_in_the_c_api_without_python(exported, rng):
    _, compact = exported
    images = rng.normal(size=(2, 16, 16, 3)).astype("float32")
    (found,) = run_in_c_api(compact, {"image": images}).values()
    np.testing.assert_allclose(found, load(compact)(images), atol=1e-6)


def test_a_pruned_clustered_and_quantized_model(tmp_path, rng):
    scheme = tfcompress.QuantizationScheme(tfcompress.UniformQuantizer(8, "tensor"))
    model = keras.Sequential([keras.Input((64,), name="x"), L.Dense(128, name="y")])
    model = tfcompress.quantize_aware(model, scheme)
    model.compile("adam", "mse")
    x = rng.normal(size=(64, 64)).astype("float32")
    callbacks = [tfcompress.PruneWeights(0.8), tfcompress.ClusterWeights(16)]
    model.fit(x, np.zeros((64, 128)), verbose=0, epochs=2, callbacks=callbacks)
    final = tfcompress.finalize(model)
    compact = export(final, tmp_path / "c", format="saved_model", weights="compact")
    plain = export(final, tmp_path / "p", format="saved_model")
    assert plain.size - compact.size > 64 * 128 * 2.5
    np.testing.assert_array_equal(load(compact)(x), load(plain)(x))


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
    found = rebuilders(final)
    assert len(found) == 2
    for variable, rebuild in found:
        made = keras.ops.convert_to_numpy(rebuild())
        kernel = keras.ops.convert_to_numpy(variable)
        np.testing.assert_array_equal(made.view("uint32"), kernel.view("uint32"))


def test_the_option_is_checked(model, tmp_path):
    with pytest.raises(InvalidArgumentError, match="'variables' or 'compact'"):
        export(model, tmp_path / "x", format="saved_model", weights="zip")
