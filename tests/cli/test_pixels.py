"""Images from a directory become what the model's first layers take, and it is said."""

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import tfcompress
from tfcompress.cli.app import app
from tfcompress.cli.inputs import load_data, read_data
from tfcompress.cli.pixels import PIXELS, chosen_pixels, scaled
from tfcompress.core.errors import InvalidArgumentError

L = keras.layers


def model(*layers, shape=(8, 8, 3), dtype="float32", name=None):
    head = [L.Conv2D(2, 3), L.GlobalAveragePooling2D(), L.Dense(2)]
    inputs = keras.Input(shape, dtype=dtype, name="image")
    x = inputs
    for layer in [*layers, *head]:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def normalization(mean, variance):
    return L.Normalization(mean=mean, variance=variance)


def nested(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([L.Rescaling(1 / 255)], "0..255"),
        ([L.Rescaling(1 / 127.5, offset=-1)], "0..255"),
        ([L.RandomFlip(), L.RandomRotation(0.1), L.Rescaling(1 / 255)], "0..255"),
        ([L.Resizing(6, 6), L.CenterCrop(5, 5), L.Rescaling(1 / 255)], "0..255"),
        ([nested(L.RandomZoom(0.1), nested(L.Rescaling(1 / 255)))], "0..255"),
        ([normalization([123.0, 116.0, 103.0], [3000.0, 3000.0, 3000.0])], "0..255"),
        ([normalization([0.48, 0.45, 0.4], [0.05, 0.05, 0.05])], "0..1"),
        ([L.Rescaling(2.0, offset=-1)], "0..1"),
        ([L.Rescaling(255.0)], "0..1"),
        ([lambda x: x / 255.0], "0..255"),
        ([lambda x: x * (1 / 255)], "0..255"),
        ([lambda x: (x - 127.5) / 127.5], "0..255"),
        ([keras.applications.mobilenet_v2.preprocess_input], "0..255"),
        ([keras.applications.resnet.preprocess_input], "0..255"),
        ([keras.applications.densenet.preprocess_input], "0..255"),
    ],
)
def test_the_first_layers_say_what_pixels_are(layers, expected):
    pixels, reason = chosen_pixels([model(*layers)], None)
    assert pixels == expected
    assert "as layer '" in reason


def test_bytes_stay_bytes():
    bytes_in = model(L.Rescaling(1 / 255), dtype="uint8")
    assert chosen_pixels([bytes_in], None) == ("0..255", "as its input has type uint8")
    made = scaled("0..255", "uint8")(np.array([0.4, 254.6], "float32"))
    assert keras.ops.convert_to_numpy(made).tolist() == [0, 255]
    with pytest.raises(InvalidArgumentError, match=r"--pixels 0\.\.255"):
        scaled("0..1", "uint8")


def test_nothing_known_is_divided_by_255_and_said():
    pixels, reason = chosen_pixels([model()], None)
    assert pixels == "0..1"
    assert "divided by 255" in reason
    assert "--pixels" in reason


@pytest.mark.parametrize("name", ["mobilenetv2_1.00_96", "resnet50", "densenet121"])
def test_models_that_are_prepared_outside_ask(name):
    alone = model(name=name)
    inputs = keras.Input((8, 8, 3))
    for subject in (alone, keras.Model(inputs, L.Dense(2)(alone(inputs)))):
        with pytest.raises(InvalidArgumentError, match=f"'{name}'.*--pixels"):
            chosen_pixels([subject], None)
        assert chosen_pixels([subject], "-1..1")[0] == "-1..1"
    with pytest.raises(InvalidArgumentError, match=r"one of 0\.\.1"):
        chosen_pixels([alone], "0-255")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "size", "takes"),
    [
        ("MobileNetV3Small", 32, "0..255"),
        ("EfficientNetB0", 32, "0..255"),
        ("EfficientNetV2B0", 32, "0..255"),
        ("ConvNeXtTiny", 32, "0..255"),
        ("MobileNet", 32, None),
        ("MobileNetV2", 32, None),
        ("ResNet50", 32, None),
        ("ResNet50V2", 32, None),
        ("VGG16", 32, None),
        ("InceptionV3", 75, None),
        ("InceptionResNetV2", 75, None),
        ("Xception", 71, None),
        ("DenseNet121", 32, None),
        ("NASNetMobile", 32, None),
    ],
)
def test_families_of_keras_applications(family, size, takes):
    made = getattr(keras.applications, family)(
        weights=None, include_top=False, input_shape=(size, size, 3)
    )
    if takes is not None:
        assert chosen_pixels([made], None)[0] == takes
        return
    with pytest.raises(InvalidArgumentError, match="prepared outside"):
        chosen_pixels([made], None)


def test_each_range_is_that_of_keras():
    x = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    utils = {"-1..1": "mobilenet", "caffe": "vgg16", "torch": "densenet"}
    for pixels, module in utils.items():
        expected = getattr(keras.applications, module).preprocess_input(x.copy())
        np.testing.assert_allclose(scaled(pixels)(x), expected, atol=1e-4)
    np.testing.assert_allclose(scaled("0..1")(x), x / 255)
    assert scaled("0..255")(x) is x
    assert len(PIXELS) == 5


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            image = rng.integers(0, 255, (10, 12, 3)).astype("uint8")
            path = tmp_path / "images" / name / f"{number}.png"
            keras.utils.save_img(path, image, scale=False)
    return tmp_path / "images"


def test_images_have_the_shape_and_type_of_the_input(images):
    for shape, dtype in [
        ((None, 8, 8, 3), "float32"),
        ((None, 8, 8, 1), "uint8"),
        ((None, 8, 8), "float32"),
        ((None, None, None, 3), "float32"),
    ]:
        x, _ = next(iter(load_data(str(images), shape, "0..255", dtype)))
        wanted = [size or 224 for size in shape[1:]]
        assert (list(x.shape[1:]), x.dtype.name) == (wanted, dtype)
        assert float(np.max(x)) > 200


@pytest.mark.export
def test_artifacts_say_what_they_hold_and_commands_print_it(images, tmp_path):
    keras.utils.set_random_seed(0)
    made = model(L.Rescaling(1 / 255))
    made.save(tmp_path / "m.keras")
    run = CliRunner().invoke
    done = run(
        app,
        ["export", str(tmp_path / "m.keras"), str(tmp_path / "m.tflite")]
        + ["--scheme", "w8a8", "--calibration", str(images)],
    )
    assert done.exit_code == 0, done.exception
    assert "Pixels: 0..255, as layer 'rescaling" in done.stderr
    artifact = tfcompress.Artifact.read(tmp_path / "m.tflite")
    assert chosen_pixels([artifact], None)[0] == "0..255"
    x = next(iter(read_data(str(images), [artifact])))[0]
    assert float(np.max(x)) > 200
    done = run(
        app,
        ["verify", str(tmp_path / "m.tflite"), str(tmp_path / "m.keras")]
        + ["--inputs", str(images), "--pixels", "0..1", "--max-abs-error", "9"],
    )
    assert done.exit_code == 0, done.exception
    assert "Pixels: 0..1, as asked for" in done.stderr
