"""Float .tflite files that are rounded without their model."""

import dataclasses
import importlib.util
import json
import random
import shutil

import keras
import numpy as np
import pytest

import tfcompress
from tests.scripts import load_script
from tfcompress.child.process import JAIL
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.exporters import ModelDescription, export, load
from tfcompress.exporters.float_file import SCRIPT
from tfcompress.exporters.float_file.exporter import FloatFileExporter
from tfcompress.exporters.manifest import made_here
from tfcompress.exporters.manifest_file import read_manifest, sha256_of
from tfcompress.exporters.options import FloatFileOptions
from tfcompress.exporters.tflite.metadata import read_labels
from tfcompress.exporters.tflite.rewriting import put_together, take_apart

L = keras.layers

pytestmark = pytest.mark.export
needs_quantizer = pytest.mark.skipif(
    importlib.util.find_spec("litert_quantizer") is None,
    reason="needs the extra 'quantizer': pip install 'tfcompress[quantizer]'",
)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(4)
    biases = {"bias_initializer": "uniform"}  # the converter shares those of zeros
    image = keras.Input((12, 12, 3), name="image")
    x = L.Conv2D(8, 3, activation="relu", name="conv", **biases)(image)
    x = L.MaxPooling2D(name="pool")(L.DepthwiseConv2D(3, name="depthwise", **biases)(x))
    return keras.Model(
        image, L.Dense(10, name="logits", **biases)(L.Flatten(name="flat")(x))
    )


@pytest.fixture(scope="module")
def file(model, folder):
    return export(model, folder / "float.tflite")


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


@needs_quantizer
@pytest.mark.parametrize(
    ("options", "coverage", "dtype", "most"),
    [
        ({"scheme": "w8a8"}, 1.0, "float32", 0.05),
        ({"scheme": "w8a16"}, 1.0, "float32", 0.02),
        ({"io_dtype": "int8"}, 1.0, "int8", 0.05),
        ({"quantize": "dynamic"}, 0.0, "float32", 0.05),
        ({"quantize": "float16"}, 0.0, "float32", 0.005),
    ],
)
def test_each_way(file, images, tmp_path, options, coverage, dtype, most):
    data = None if "quantize" in options else images
    rounded = export(file.path, tmp_path / "r.tflite", calibration_data=data, **options)
    assert rounded.format == "tflite"
    assert rounded.size < 0.7 * file.size
    assert rounded.integer_coverage == coverage
    assert [info.dtype for info in rounded.inputs] == [dtype]
    assert [info.name for info in rounded.inputs] == ["image"]
    expected = load(file)(images)
    largest = float(np.abs(expected).max())
    assert float(np.abs(load(rounded)(images) - expected).max()) < most * largest


@needs_quantizer
def test_ranges_are_those_of_all_samples(file, images, tmp_path):
    """A moving average would forget what is rare, and depend on the order."""
    bright = images.copy()
    bright[7] *= 10
    made = [
        export(file, tmp_path / f"{name}.tflite", calibration_data=data)
        for name, data in (("there", bright), ("back", bright[::-1]))
    ]
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
    step = made[0].outputs[0].step
    assert 255.5 * step > np.ptp(load(file)(bright))


@needs_quantizer
def test_the_manifest_says_what_it_was_made_of(file, images, tmp_path):
    rounded = export(file, tmp_path / "r.tflite", calibration_data=images)
    manifest = read_manifest(rounded)
    model = manifest["model"]
    assert (model["name"], model["class"]) == ("float", "float .tflite file")
    assert model["sha256"] == sha256_of(file.path)
    assert model["parameters"] == 27 * 8 + 8 + 9 * 8 + 8 + 128 * 10 + 10
    assert model["activation_bits"] == [8]
    assert model["layers"]["CONV_2D"] == 1
    assert manifest["compared"]["samples"] == 4
    assert manifest["versions"]["litert-quantizer"]
    assert manifest["options"]["scheme"] == "w8a8"


@needs_quantizer
def test_all_that_takes_artifacts_takes_it(file, images, tmp_path):
    rounded = export(file, tmp_path / "r.tflite", calibration_data=images)
    allowed = {"max_abs_error": 0.2, "min_agreement": 0.9}
    assert tfcompress.verify(rounded, file, images, **allowed).passed
    parity = json.loads((tmp_path / "r.tflite.manifest.json").read_text())["parity"]
    assert parity["samples"] == len(images)
    card = rounded.model_card(license="mit")
    assert "against the float file" in card
    assert "keras\n" not in card.split("---")[1]
    packed = tfcompress.pack(rounded, tmp_path / "r.tfc")
    assert packed.size < rounded.size
    report = tfcompress.report(file, rounded)
    assert [row.name for row in report.rows] == ["float.tflite", "r.tflite"]


@needs_quantizer
def test_doctor_knows_before_what_would_stay_in_float(file, images, tmp_path):
    found = tfcompress.doctor(file, scheme="w8a8")
    assert (found.deployable, found.integer_coverage) == (True, 1.0)
    rounded = export(file, tmp_path / "r.tflite", calibration_data=images)
    assert tfcompress.doctor(rounded).findings == ()
    curve = keras.Sequential(
        [keras.Input((6,), name="x"), L.Dense(8, activation="elu")]
    )
    other = export(curve, tmp_path / "elu.tflite")
    (finding,) = tfcompress.doctor(other, scheme="w8a8").findings
    assert (finding.severity, finding.kind) == ("warning", "ELU")
    assert tfcompress.doctor(other).findings == ()
    with pytest.raises(InvalidArgumentError, match="Unknown `scheme` of a file"):
        tfcompress.doctor(other, scheme="w4a8")
    with pytest.raises(InvalidArgumentError, match="artifact is of another format"):
        tfcompress.doctor(other, "onnx")


@needs_quantizer
def test_verify_against_the_float_file_explains_itself(file, images, tmp_path):
    rounded = export(file, tmp_path / "r.tflite", calibration_data=images)
    found = tfcompress.verify(rounded, file, images)
    assert not found.passed
    assert "float.tflite in floats, so this is what quantization costs" in str(found)


def without_signature(file, path):
    content = take_apart(file.path.read_bytes())
    content.signatureDefs = None
    path.write_bytes(put_together(content))
    return path


@needs_quantizer
def test_a_file_of_an_old_converter_without_a_signature(file, images, tmp_path):
    old = without_signature(file, tmp_path / "old.tflite")
    name = tfcompress.Artifact.read(old).inputs[0].name
    rounded = export(old, tmp_path / "r.tflite", calibration_data={name: images})
    assert rounded.integer_coverage == 1.0
    same = export(file, tmp_path / "same.tflite", calibration_data=images)
    assert np.array_equal(load(rounded)(images), load(same)(images))


@needs_quantizer
def test_two_inputs_and_a_batch(tmp_path):
    """In an order that is not alphabetical."""
    keras.utils.set_random_seed(5)
    query, context = keras.Input((8,), name="query"), keras.Input((4,), name="context")
    hidden = L.Dense(64)(query) + L.Dense(64)(context)
    model = keras.Model(
        [query, context], [L.Dense(30, name="b")(hidden), L.Dense(20, name="a")(hidden)]
    )
    file = export(model, tmp_path / "float.tflite", batch_size=4)
    generator = np.random.default_rng(0)
    data = {
        "query": generator.normal(size=(10, 8)).astype("float32"),
        "context": generator.normal(size=(10, 4)).astype("float32"),
    }
    rounded = export(file, tmp_path / "r.tflite", calibration_data=data)
    assert [info.name for info in rounded.inputs] == ["query", "context"]
    expected, found = load(file)(data), load(rounded)(data)
    assert list(found) == list(expected) == ["b", "a"]
    for name, values in expected.items():
        largest = np.abs(values).max()
        assert np.abs(found[name] - values).max() < 0.05 * largest, name


@needs_quantizer
def test_what_the_file_says_of_itself_stays(model, tmp_path):
    labels = tuple("abcdefghij")
    said = ModelDescription("letters", labels=labels)
    file = export(model, tmp_path / "float.tflite", description=said)
    content = export(file, tmp_path / "r.tflite", quantize="dynamic").path.read_bytes()
    assert read_labels(content) == labels
    assert content.count(b"M001") == 1


@needs_quantizer
def test_a_file_that_grows_is_told(plain, tmp_path):
    file = export(plain, tmp_path / "float.tflite")
    data = np.zeros((4, 8), "float32")
    with pytest.warns(tfcompress.CompressionWarning, match="it has few weights"):
        export(file, tmp_path / "r.tflite", calibration_data=data)


@needs_quantizer
def test_a_strangers_file_stays_one(file, images, tmp_path):
    strange = without_signature(file, tmp_path / "strange.tflite")
    data = [images]
    rounded = export(strange, tmp_path / "r.tflite", calibration_data=data)
    assert made_here(file.path)
    assert not made_here(rounded.path)


@needs_quantizer
def test_the_quantizer_may_write_nowhere(file, tmp_path):
    """It runs in the child process that is jailed, and not in this one."""
    before = JAIL.pid
    export(file, tmp_path / "r.tflite", quantize="dynamic")
    assert JAIL.pid
    assert before in (None, JAIL.pid)


@needs_quantizer
def test_a_crash_of_the_quantizer_is_an_error(file, images, tmp_path, monkeypatch):
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, signal\n"
        "def quantize(job):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "JOBS = {'quantize': quantize}\n"
    )
    monkeypatch.setattr("tfcompress.exporters.float_file.exporter.SCRIPT", str(script))
    target = tmp_path / "new" / "r.tflite"
    with pytest.raises(ExportError, match=r"crashed on the file.*SIGSEGV") as caught:
        export(file, target, calibration_data=images)
    assert hasattr(caught.value, "log")
    assert entries(tmp_path) == ["dies.py"]


@needs_quantizer
def test_wrong_numbers_are_no_artifact(file, images, tmp_path, monkeypatch):
    script = tmp_path / "lies.py"
    body = (
        f"import runpy\nreal = runpy.run_path({SCRIPT!r})['JOBS']['quantize']\n"
        "def quantize(job):\n"
        "    job['arrays'] = {n: a / 50 for n, a in job['arrays'].items()}\n"
        "    return real(job)\n"
        "JOBS = {'quantize': quantize}\n"
    )
    script.write_text(body)
    monkeypatch.setattr("tfcompress.exporters.float_file.exporter.SCRIPT", str(script))
    with pytest.raises(ExportError, match="does not compute in LiteRT what"):
        export(file, tmp_path / "r.tflite", calibration_data=images)
    assert entries(tmp_path) == ["lies.py"]


REFUSED = [
    ({}, "float file becomes integers by typical inputs"),
    ({"calibration_data": "short"}, "wrong shape"),
    ({"calibration_data": "nan"}, "are no numbers.*NaN or infinite"),
    ({"calibration_data": "none"}, "Too few calibration samples"),
    ({"calibration_data": "images", "format": "onnx"}, "stays one.*format='onnx'"),
    ({"calibration_data": "images", "batch_size": 8}, "no option 'batch_size'"),
    ({"calibration_data": "images", "int4": "all"}, "no option 'int4'"),
    ({"calibration_data": "images", "scheme": "w4a8"}, "Unknown `scheme` of a file"),
    ({"calibration_data": "images", "io_dtype": "uint8"}, "Unknown `io_dtype`"),
    ({"calibration_data": "images", "quantize": "dynamic"}, "exclude each other"),
    ({"quantize": "dynamic", "io_dtype": "int8"}, "Only a file of 8-bit activations"),
    ({"quantize": "dynamic", "input_signature": []}, "says itself what it takes"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_had_is_refused_by_name(
    file, images, tmp_path, options, message, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    kinds = {
        "images": images,
        "short": images[:, :5],
        "nan": images * np.nan,
        "none": images[:0],
    }
    given = dict(options)
    if "calibration_data" in given:
        given["calibration_data"] = kinds[given["calibration_data"]]
    with pytest.raises(InvalidArgumentError, match=message):
        export(file.path, tmp_path / "r.tflite", **given)
    assert entries(tmp_path) == []


def test_files_that_are_none_or_no_float_ones(
    file, quantized_file, quantized_version, model, images, tmp_path
):
    target = tmp_path / "r.tflite"
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(file.path.read_bytes()[:4000])
    model.save(tmp_path / "m.keras")
    before = entries(tmp_path)
    for source, kind, message in (
        (tmp_path / "nothing.tflite", ArtifactError, "There is no artifact"),
        (cut, ArtifactError, "damaged or truncated"),
        (quantized_file, InvalidArgumentError, "holds integers already"),
        (quantized_version, InvalidArgumentError, r"only \.tflite files"),
        (tmp_path / "m.keras", InvalidArgumentError, r"load it: keras\.saving"),
    ):
        with pytest.raises(kind, match=message):
            export(source, target, calibration_data=images)
    assert entries(tmp_path) == before


def test_nothing_is_replaced_unasked(file, images, tmp_path):
    (tmp_path / "there.tflite").write_bytes(b"old")
    with pytest.raises(ExportError, match=r"exists already.*overwrite=True"):
        export(file, tmp_path / "there.tflite", calibration_data=images)
    copy = shutil.copy(file.path, tmp_path / "float.tflite")
    with pytest.raises(InvalidArgumentError, match="take the place of the float one"):
        export(copy, copy, calibration_data=images, overwrite=True)
    assert (tmp_path / "there.tflite").read_bytes() == b"old"


def test_an_editor_sees_the_options_that_there_are():
    fields = {field.name for field in dataclasses.fields(FloatFileExporter)}
    assert set(FloatFileOptions.__annotations__) == fields


def test_without_the_extra(file, images, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "litert_quantizer" else found(name, *rest),
    )
    with pytest.raises(ExportError, match=r"pip install 'tfcompress\[quantizer\]'"):
        export(file, tmp_path / "new" / "r.tflite", calibration_data=images)
    assert entries(tmp_path) == []


@needs_quantizer
def test_mutated_files_are_rounded_or_refused(file, images, tmp_path):
    mutate = load_script("benchmarks/_mutations.py").of_bytes
    content = file.path.read_bytes()
    for number in range(12):
        path = tmp_path / "mutated.tflite"
        path.write_bytes(mutate(content, random.Random(number)))
        target = tmp_path / f"{number}.tflite"
        try:
            rounded = export(path, target, calibration_data=images[:8])
            assert rounded.size > 0
        except (ArtifactError, ExportError, InvalidArgumentError):
            assert not target.exists()


@needs_quantizer
def test_a_loop_is_refused_by_its_operator(tmp_path, rng):
    data = rng.normal(size=(32, 4, 3)).astype("float32")
    model = keras.Sequential([keras.Input((4, 3), name="x"), L.LSTM(5), L.Dense(2)])
    source = export(model, tmp_path / "float.tflite").path
    with pytest.raises(InvalidArgumentError, match=r"WHILE.*`calibrate`.*dynamic"):
        export(source, tmp_path / "loop.tflite", calibration_data=data)
    assert not (tmp_path / "loop.tflite").exists()
    assert export(source, tmp_path / "dynamic.tflite", quantize="dynamic").size
