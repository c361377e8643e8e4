"""Mistakes on the command line: found before the work, and said in its words."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from tfcompress.cli import app
from tfcompress.cli.inputs import load_data
from tfcompress.core.errors import (
    ExportError,
    InvalidArgumentError,
)

L = keras.layers


def run(line, folder):
    words = [word.replace("@", f"{folder}/") for word in line.split()]
    return CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a compiled classifier, data of several kinds and a text."""
    folder = tmp_path_factory.mktemp("mistakes")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), L.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x, np.arange(32) % 2, verbose=0)
    model.save(folder / "m.keras")
    np.savez(folder / "d.npz", x=x, y=np.arange(32) % 2)
    np.savez(folder / "numbers.npz", x=x, y=x[:, 0])
    (folder / "file").write_text("precious")
    return folder


@pytest.mark.export
@pytest.mark.parametrize("word", ["False", "no", "OFF", "false", "maybe", "1"])
def test_only_true_overwrites(place, tmp_path, word):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"precious")
    done = run(f"export @m.keras {path} --option overwrite={word}", place)
    assert path.read_bytes() == b"precious"
    if word in ("maybe", "1"):
        assert isinstance(done.exception, InvalidArgumentError)
        assert "Option 'overwrite' is true or false" in str(done.exception)
    else:
        assert isinstance(done.exception, ExportError)
        assert "pass `--overwrite`" in str(done.exception)


@pytest.mark.export
def test_words_for_true_and_none(place, tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"old")
    line = f"export @m.keras {tmp_path}/m.tflite --option overwrite=Yes"
    assert run(f"{line} --option batch_size=None", place).exit_code == 0
    assert (tmp_path / "m.tflite").stat().st_size > 100


def test_errors_name_options_of_the_command(place):
    done = run("export @m.keras @m.lite", place)
    assert "such as `--format saved_model`" in str(done.exception)
    done = run("pack @file @d.npz", place)
    assert "pass `--overwrite`" in str(done.exception)
    done = run("export @m.keras @m.tflite --option batch_size=abc", place)
    assert str(done.exception).endswith("Expected: None, 1, 2, ...")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("--require min_agreement=high", "no number"),
        ("--require min_agreement=null", "no number"),
        ("--require min_agreement=yes", "no number"),
        ("--require min_agreement=7", "`min_agreement` is out of range"),
        ("--require agreement=0.5", "Unknown thresholds"),
    ],
)
def test_limits_are_numbers(place, more, text):
    done = run(f"report @none.keras @none.keras --data @d.npz {more}", place)
    assert isinstance(done.exception, InvalidArgumentError)
    assert text in str(done.exception)


@pytest.mark.parametrize("count", [0, -3])
@pytest.mark.parametrize(
    "line",
    [
        "verify @m.tflite @m.keras --inputs @d.npz",
        "export @m.keras @m.tflite --scheme w8a8 --calibration @d.npz",
    ],
)
def test_samples_are_at_least_one(place, line, count):
    done = run(f"{line} --samples {count}", place)
    assert done.exit_code == 2
    assert "'--samples'" in done.stderr


def test_damaged_images_are_named(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        keras.utils.save_img(tmp_path / name, np.ones((8, 8, 3)))
    for number in range(4):
        (tmp_path / f"b/{3 + number}.png").write_text("<html>404</html>")
    with pytest.raises(InvalidArgumentError, match=r"b/3\.png.*b/5\.png and 1 more"):
        load_data(str(tmp_path), (None, 8, 8, 3))
    # Only what is read is looked at.
    load_data(str(tmp_path), (None, 8, 8, 3), count=2)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("--html @r.html --test @none.npz", "The data cannot be read"),
        ("--html @r.html --test @numbers.npz", "A label is no class"),
        ("--test @d.npz", "--test without --html"),
        ("--html @file/r.html", "could not be written"),
        ("--save-recipe @file/r.yaml", "could not be written"),
        ("--html @out2", "a directory is never replaced"),
    ],
)
def test_what_comes_after_a_search_is_tried_before_it(place, more, text):
    (place / "out2").mkdir(exist_ok=True)
    line = "compress @m.keras --train @d.npz --validation @d.npz --max-bytes 9kB"
    done = run(f"{line} --output @out {more}", place)
    assert isinstance(done.exception, InvalidArgumentError | ExportError)
    assert text in str(done.exception)
    assert not (place / "out").exists()
    assert not (place / "r.html").exists()


def test_the_directory_of_a_search_is_none_of_a_file(place):
    line = "compress @m.keras --train @d.npz --validation @d.npz --max-bytes 9kB"
    done = run(f"{line} --output @file", place)
    assert isinstance(done.exception, InvalidArgumentError)
    assert "needs a directory" in str(done.exception)
    assert (place / "file").read_text() == "precious"


@pytest.mark.export
def test_texts_are_compressed_and_trusted(tmp_path):
    words = L.TextVectorization(20, output_sequence_length=4)
    texts = np.array(["a b", "c d"] * 16)
    words.adapt(texts)
    inputs = keras.Input((), dtype="string", name="text")
    x = L.GlobalAveragePooling1D()(L.Embedding(20, 3)(words(inputs)))
    model = keras.Model(inputs, L.Dense(2)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    labels = np.arange(32) % 2
    model.fit(keras.ops.convert_to_tensor(texts), labels, verbose=0)
    model.save(tmp_path / "t.keras")
    np.savez(tmp_path / "t.npz", x=texts, y=labels)
    (tmp_path / "r.yaml").write_text("tfcompress: 1\nstages: [{fit: {epochs: 1}}]\n")
    done = run(
        "compress @t.keras --train @t.npz --validation @t.npz --max-bytes 90kB "
        "--target saved_model --recipe @r.yaml --output @out --test @t.npz "
        "--html @r.html",
        tmp_path,
    )
    assert done.exit_code == 0, done.exception
    assert "integers or texts" in (tmp_path / "r.html").read_text()


def test_the_package_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "tfcompress", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()[0].isdigit()


def test_calibration_data_without_bits_are_refused(place):
    done = run("export @m.keras @n.tflite --calibration @d.npz", place)
    assert isinstance(done.exception, InvalidArgumentError)
    assert "--scheme w8a8" in str(done.exception)
    assert not (place / "n.tflite").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("t.csv", "a file of another kind"), ("t.npz", "no zip archive")],
)
def test_files_of_other_kinds_are_not_taken_for_missing_ones(name, reason, tmp_path):
    (tmp_path / name).write_text("1,2,3")
    with pytest.raises(InvalidArgumentError, match=reason):
        load_data(str(tmp_path / name))


def test_help_names_the_extra():
    done = CliRunner().invoke(app, ["export", "--help"])
    assert "tfcompress[quantizer]" in done.output
