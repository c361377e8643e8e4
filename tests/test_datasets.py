"""Images come from the first source that works, and damaged files are named."""

import gzip
import struct
import sys

import keras
import numpy as np
import pytest

from tfcompress import datasets
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.datasets import load_digits, load_images, read_fashion_mnist, read_idx


def idx(array):
    """Returns the IDX bytes of an array of unsigned bytes."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype("uint8").tobytes()


@pytest.fixture
def folder(tmp_path, rng):
    """A folder with four small IDX files."""
    for part, count in (("train", 12), ("t10k", 5)):
        images = rng.integers(0, 256, (count, 4, 3))
        labels = rng.integers(0, 10, count)
        path = tmp_path / f"{part}-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(idx(images)))
        path = tmp_path / f"{part}-labels-idx1-ubyte.gz"
        path.write_bytes(gzip.compress(idx(labels)))
    return tmp_path


@pytest.fixture
def no_files(monkeypatch, tmp_path):
    monkeypatch.delenv(datasets.DIRECTORY_VARIABLE, raising=False)
    monkeypatch.setattr(datasets, "DEBIAN_DIRECTORY", tmp_path / "nowhere")


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_idx_is_read_gzipped_and_plain(tmp_path, rng, pack):
    array = rng.integers(0, 256, (3, 4, 5))
    (tmp_path / "file").write_bytes(pack(idx(array)))
    found = read_idx(tmp_path / "file")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file.*begins with nothing"),
        (b"PNG\x01rest", "not an IDX file.*begins with 50 4e 47 01"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01abcd", "not an IDX file of unsigned bytes"),
        (idx(np.zeros((3, 4)))[:-1], r"11 bytes after .*Expected: 3 x 4 = 12"),
        (idx(np.zeros((3, 4))) + b"x", "13 bytes after the header"),
        (idx(np.zeros((3, 4)))[:7], "0 bytes after the header"),
        (gzip.compress(idx(np.zeros((30, 40))))[:-12], "Cannot read .*file"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 20, "Cannot read .*file"),
    ],
    ids=[
        "empty", "other", "floats", "short", "long", "header", "truncated", "broken",
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=message):
        read_idx(tmp_path / "file")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"Cannot read .*nothing"):
        read_idx(tmp_path / "nothing")


def test_a_folder_becomes_images(folder):
    data = read_fashion_mnist(folder)
    assert data.x_train.shape == (12, 4, 3, 1)
    assert data.x_test.shape == (5, 4, 3, 1)
    assert (data.x_train.dtype, data.y_train.dtype) == ("float32", "int64")
    raw = read_idx(folder / "train-images-idx3-ubyte.gz")
    np.testing.assert_allclose(data.x_train[..., 0] * 255, raw, rtol=1e-6)
    assert str(folder) in data.name
    assert (data.image_shape, data.num_classes) == ((4, 3, 1), 10)


def test_the_environment_names_the_folder(folder, monkeypatch):
    monkeypatch.setenv(datasets.DIRECTORY_VARIABLE, str(folder))
    data = load_images(limit=4)
    assert (len(data.x_train), len(data.y_train)) == (4, 4)
    assert (len(data.x_test), len(data.y_test)) == (4, 4)
    assert str(folder) in data.name


def test_a_named_folder_without_a_file_is_an_error(folder, monkeypatch):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv(datasets.DIRECTORY_VARIABLE, str(folder))
    with pytest.raises(InvalidArgumentError, match="without t10k-labels-idx1"):
        load_images()


def test_labels_that_do_not_fit_are_found(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(11))))
    with pytest.raises(InvalidArgumentError, match=r"labels of shape \(11,\)"):
        read_fashion_mnist(folder)


@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_a_limit_that_is_no_count_is_refused(folder, limit):
    with pytest.raises(InvalidArgumentError, match="`limit` must be a positive number"):
        read_fashion_mnist(folder).first(limit)


def test_keras_is_the_second_source(no_files, monkeypatch):
    x, y = np.full((6, 28, 28), 255, "uint8"), np.arange(6, dtype="uint8")
    monkeypatch.setattr(
        keras.datasets.fashion_mnist, "load_data", lambda: ((x, y), (x[:2], y[:2]))
    )
    data = load_images()
    assert data.name == "Fashion-MNIST (keras.datasets)"
    assert data.x_train.shape == (6, 28, 28, 1)
    assert data.x_train.max() == 1.0


def test_without_a_network_the_digits_are_taken(no_files, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", unreachable)
    data = load_images()
    assert data.name == "digits 8x8 (scikit-learn)"
    assert (data.x_train.shape, data.x_test.shape) == (
        (1437, 8, 8, 1),
        (360, 8, 8, 1),
    )
    assert (data.x_train.min(), data.x_train.max()) == (0.0, 1.0)
    assert np.unique(data.y_test).tolist() == list(range(10))


def test_the_digits_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InvalidArgumentError, match="pip install scikit-learn"):
        load_digits()


def unreachable():
    raise Exception("URL fetch failure")  # what Keras raises


def test_with_no_source_at_all_the_error_says_how_to_get_one(no_files, monkeypatch):
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", unreachable)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InvalidArgumentError) as caught:
        load_images()
    message = str(caught.value)
    assert "keras.datasets.fashion_mnist: URL fetch failure" in message
    assert "install the Debian package dataset-fashion-mnist" in message


@pytest.mark.skipif(
    not datasets.DEBIAN_DIRECTORY.is_dir(), reason="Debian's files are not installed"
)
def test_the_real_images_are_the_real_images():
    data = read_fashion_mnist(datasets.DEBIAN_DIRECTORY)
    assert (data.x_train.shape, data.x_test.shape) == (
        (60000, 28, 28, 1),
        (10000, 28, 28, 1),
    )
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    assert data.class_names[data.y_train[0]] == "Ankle boot"
    assert float(data.x_train.mean()) == pytest.approx(0.2860, abs=1e-3)
