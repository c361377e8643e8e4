"""The onnx and openvino formats: integer kernels, options, damaged files."""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.exporters import Artifact, export, load

L = keras.layers
pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def onnx_file(quantized, folder):
    pytest.importorskip("onnxruntime")
    return export(quantized, folder / "quantized.onnx", format="onnx")


@pytest.fixture(scope="module")
def openvino_folder(plain, folder):
    pytest.importorskip("openvino")
    return export(plain, folder / "plain_openvino", format="openvino")


def test_kernels_are_integers_with_a_scale_per_channel(onnx_file, quantized):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(onnx_file.path)
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    kernels = [n for n in stored if n.endswith("_integers")]
    assert sorted(stored[n].shape for n in kernels) == [
        (8, 1, 3, 3),
        (8, 3, 3, 3),
        (288, 10),
    ]
    (logits,) = (n for n in kernels if stored[n].ndim == 2)
    scale = stored[logits.replace("_integers", "_scale")]
    zero_point = stored[logits.replace("_integers", "_zero_point")]
    # ONNX Runtime cuts sums of signed kernels on x86 processors without VNNI.
    assert all(stored[n].dtype == np.uint8 for n in kernels)
    assert (zero_point == 128).all()
    kernel = quantized.get_layer("logits").kernel.numpy()
    integers = stored[logits].astype(int) - zero_point
    np.testing.assert_allclose(integers * scale, kernel, rtol=1e-6)


def test_kernels_are_signed_where_that_is_asked_for(onnx_file, quantized, tmp_path):
    import onnx
    from onnx import numpy_helper

    # ONNX Runtime's own kernels for them saturate without VNNI: nothing is compared.
    options = {"kernels": "int8", "check": "off"}
    signed = export(quantized, tmp_path / "m.onnx", format="onnx", **options)
    unsigned_kernels, kernels, zero_points = {}, {}, []
    for path, found in ((onnx_file.path, unsigned_kernels), (signed.path, kernels)):
        for stored in onnx.load(path).graph.initializer:
            array = numpy_helper.to_array(stored)
            if stored.name.endswith("_integers"):
                found[array.shape] = array
            elif path == signed.path and stored.name.endswith("_zero_point"):
                zero_points.append(array)
    assert len(kernels) == len(unsigned_kernels) == 3
    for shape, kernel in kernels.items():
        assert kernel.dtype == np.int8
        np.testing.assert_array_equal(kernel, unsigned_kernels[shape].astype(int) - 128)
    assert not any(zero.any() for zero in zero_points if zero.dtype == np.int8)
    with pytest.raises(InvalidArgumentError, match=r"`kernels`.*'int16'"):
        export(quantized, tmp_path / "n.onnx", format="onnx", kernels="int16")


def test_onnx_numbers_in_integers_equal_keras(onnx_file, quantized, images):
    result = tfcompress.verify(onnx_file, quantized, images)
    assert result.max_error_steps <= 1.001
    assert result.passed


def test_sums_are_rounded_as_litert_does(tmp_path, rng):
    # ONNX Runtime adds in floats, and takes the even one of two that are as near.
    pytest.importorskip("onnxruntime")
    inputs = [keras.Input((64,), name=name) for name in ("a", "b")]
    model = keras.Model(inputs, L.Add()(inputs))
    data = [rng.uniform(-1, 1, (256, 64)).astype("float32") for _ in inputs]
    for array in data:  # a sum has twice the step
        array[0], array[1] = 1.0, -1.0
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    off = {}
    for exact in (True, False):
        path = tmp_path / f"{exact}.onnx"
        file = export(final, path, format="onnx", exact_sums=exact)
        outputs = load(file.path)(dict(zip("ab", data)))
        off[exact] = np.abs(outputs - final.predict(data, verbose=0)).max()
    assert off[True] == 0
    assert off[False] > 0


def test_averages_and_pictures_are_rounded_as_litert_does(tmp_path, rng):
    pytest.importorskip("onnxruntime")
    image = keras.Input((9, 7, 3))
    features = L.Conv2D(4, 3, activation="relu")(image)
    averages = L.AveragePooling2D(3, 2, padding="same")(features)
    larger = L.UpSampling2D(2, interpolation="bilinear")(features)
    flat = [L.Flatten()(one) for one in (averages, larger)]
    model = keras.Model(image, [L.Dense(3)(one) for one in flat])
    images = rng.random((64, 9, 7, 3)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, images))
    artifact = export(final, tmp_path / "model.onnx", format="onnx")
    assert tfcompress.verify(artifact, final, images).max_error_steps < 0.001


def test_openvino_rounds_what_it_adds(tmp_path, rng):
    # It made the sum part of the convolution, without the rounding between the two:
    # every tenth value was a step off.
    pytest.importorskip("openvino")
    inputs = keras.Input((16, 16, 3), name="image")
    skip = L.Conv2D(16, 3, padding="same", name="stem")(inputs)
    x = L.Conv2D(16, 3, padding="same", activation="relu", name="first")(skip)
    x = L.Conv2D(16, 3, padding="same", name="second")(x)
    model = keras.Model(inputs, L.ReLU(name="relu")(L.Add(name="add")([x, skip])))
    data = rng.normal(size=(32, 16, 16, 3)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    file = export(final, tmp_path / "sum", format="openvino", batch_size=1)
    run = load(file.path)
    outputs = np.concatenate([run(row[None]) for row in data[:8]])
    off = np.abs(outputs - final.predict(data[:8], verbose=0)) / file.outputs[0].step
    assert np.mean(off > 0.5) < 0.001


def test_descriptions(onnx_file, openvino_folder):
    assert onnx_file.inputs[0].shape == (None, 12, 12, 3)
    assert onnx_file.outputs[0].name == "logits"
    assert Artifact.read(onnx_file.path) == onnx_file
    assert openvino_folder.inputs[0].name == "input_1"
    assert openvino_folder.outputs[0].shape == (None, 4)
    assert Artifact.read(openvino_folder.path) == openvino_folder
    assert [f.name for f in openvino_folder.files] == ["model.xml", "model.bin"]


def test_transposed_convolutions_longer_than_strides_and_kernel_make_them(tmp_path):
    """tf2onnx writes padding that ONNX does not know."""
    pytest.importorskip("onnxruntime")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 5, 2), name="image")
    outputs = {
        "wide": L.Conv2DTranspose(3, 2, strides=4, padding="same")(inputs),
        "last": L.Conv2DTranspose(3, 3, 2, output_padding=1)(inputs),
        "plain": L.Conv2DTranspose(3, 3, 2, padding="same")(inputs),
    }
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
    artifact = export(model, tmp_path / "model.onnx", format="onnx")
    tfcompress.verify(artifact, model, x).raise_if_failed()


def test_gelu_is_written_in_operators_of_onnx(tmp_path):
    """TensorFlow computes it by Erfc, which ONNX does not have."""
    pytest.importorskip("onnxruntime")
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(0, 3, (9, 8)).astype("float32")
    layers = [keras.Input((8,)), L.Dense(16, "gelu"), L.Activation("gelu"), L.Dense(3)]
    model = keras.Sequential(layers)
    artifact = export(model, tmp_path / "model.onnx", format="onnx")
    tfcompress.verify(artifact, model, x).raise_if_failed()
    final = tfcompress.finalize(tfcompress.calibrate(model, x))
    artifact = export(final, tmp_path / "integers.onnx", format="onnx")
    tfcompress.verify(artifact, final, x).raise_if_failed()


def test_an_operator_that_onnx_does_not_have_is_named_with_its_layer(tmp_path):
    pytest.importorskip("onnxruntime")

    class Digamma(L.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.math.digamma(x)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Dense(2)(Digamma(name="strange")(inputs)))
    with pytest.raises(ExportError, match=r"Digamma of layer 'strange'"):
        export(model, tmp_path / "model.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_static_batch_and_16_bit_weights(plain, folder):
    pytest.importorskip("openvino")
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    artifact = export(
        plain, folder / "half", format="openvino", batch_size=2, float16=True
    )
    assert artifact.inputs[0].shape == (2, 8)
    error = np.abs(load(artifact, threads=1)(x) - plain.predict(x, verbose=0)).max()
    assert 0 < error < 0.01


@pytest.mark.parametrize("keep", [0, 0.3, 0.95])
def test_truncated_onnx(onnx_file, tmp_path, keep):
    content = onnx_file.path.read_bytes()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ArtifactError, match=r"damaged or truncated|does not run"):
        load(broken)


def test_flipped_onnx_never_kills_the_process(onnx_file, tmp_path):
    content = onnx_file.path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(20):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 20):
            damaged[position] = rng.integers(0, 256)
        path = tmp_path / "flipped.onnx"
        path.write_bytes(damaged)
        try:
            load(path, threads=1)
            outcomes.append("loaded")
        except ArtifactError:
            outcomes.append("refused")
    assert outcomes.count("refused") >= 15


def test_damaged_openvino(openvino_folder, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    text = (openvino_folder.path / "model.xml").read_text()
    (folder / "model.xml").write_text(text)
    with pytest.raises(ArtifactError, match=r"not whole.*model\.bin"):
        load(folder)
    (folder / "model.bin").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="does not run in OpenVINO"):
        load(folder)
    weights = (openvino_folder.path / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(weights)
    (folder / "model.xml").write_text(text[:800])
    with pytest.raises(ArtifactError, match="does not run in OpenVINO"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.txt", {"format": "onnx"}, r"ends in \.onnx"),
        ("model.onnx", {"format": "onnx", "opset": 9}, "`opset`"),
        ("model.onnx", {"format": "onnx", "batch_size": 0}, "`batch_size`"),
        ("model.onnx", {"format": "onnx", "calibration_data": [1]}, "calibration"),
        ("model.xml", {"format": "openvino"}, "is a directory"),
        ("model", {"format": "openvino", "calibration_data": [1]}, "calibration"),
    ],
)
def test_bad_arguments(plain, folder, name, options, message):
    pytest.importorskip("onnxruntime")
    with pytest.raises(InvalidArgumentError, match=message):
        export(plain, folder / "never" / name, **options)
    assert not (folder / "never").exists()


def test_existing_output(plain, onnx_file, openvino_folder):
    for artifact in (onnx_file, openvino_folder):
        before = artifact.path.stat().st_mtime_ns
        with pytest.raises(ExportError, match="exists already"):
            export(plain, artifact.path, format=artifact.format)
        assert artifact.path.stat().st_mtime_ns == before


def test_a_missing_runtime_is_named(plain, folder, monkeypatch):
    from tfcompress.child import probing

    monkeypatch.setattr(probing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"'openvino'.*tfcompress\[openvino\]"):
        export(plain, folder / "never", format="openvino")
