"""Small real images for the demo, the examples and the tests.

Fashion-MNIST from the Debian package `dataset-fashion-mnist` where it is installed,
else through Keras (which downloads it once), else scikit-learn's digits.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from tfcompress.core.arguments import integer
from tfcompress.core.errors import InvalidArgumentError, one_line

#: Names another folder with the four IDX files of Fashion-MNIST (or of MNIST).
DIRECTORY_VARIABLE = "TFCOMPRESS_FASHION_MNIST"
DEBIAN_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")

_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images in two parts, ready for `fit` and `evaluate`.

    Attributes:
        name: which data set this is and where it came from.
        x_train, x_test: float32 in [0, 1] of shape `(n, height, width, channels)`.
        y_train, y_test: int64 class numbers of shape `(n,)`.
        class_names: what the class numbers mean.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def first(self, limit: int | None) -> ImageData:
        """Returns the first `limit` training and the first `limit` test images."""
        if limit is None:
            return self
        problem = "`limit` must be a positive number of images."
        integer(limit, problem, low=1, expected="an int >= 1, or None for all images")
        parts = {part: getattr(self, part)[:limit] for part in _IDX_FILES}
        return dataclasses.replace(self, **parts)


def load_images(limit: int | None = None) -> ImageData:
    """Returns real images: Fashion-MNIST, or the digits where that is out of reach.

    When to use: to try something on images that every machine has. `name` of the
    result says which data set it is.

    Args:
        limit: at most so many training and so many test images; `None` for all.

    Raises:
        InvalidArgumentError: if files are there and damaged, or no source works.

    Example:

    >>> data = load_images(limit=100)
    >>> data.x_train.dtype.name, data.x_train.shape[0], data.x_train.shape[-1]
    ('float32', 100, 1)
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return read_fashion_mnist(named).first(limit)
    if _find(DEBIAN_DIRECTORY, _IDX_FILES["x_train"]) is not None:
        return read_fashion_mnist(DEBIAN_DIRECTORY).first(limit)
    sources = {
        "keras.datasets.fashion_mnist": _from_keras,
        "scikit-learn's digits": load_digits,
    }
    tried = []
    for name, source in sources.items():
        try:
            found = source()
        # Keras raises a bare Exception where a download fails.
        except Exception as error:
            tried.append(f"{name}: {one_line(error)}")
        else:
            return found.first(limit)
    raise InvalidArgumentError(
        "No images to work with.",
        received="; ".join(tried),
        expected="Fashion-MNIST or scikit-learn",
        fix="install the Debian package dataset-fashion-mnist, or "
        f"`pip install scikit-learn`, or set {DIRECTORY_VARIABLE} to a folder with "
        "the IDX files",
    )


def load_digits(limit: int | None = None) -> ImageData:
    """Returns scikit-learn's handwritten digits: 1797 images of 8x8 pixels.

    When to use: in examples that take seconds and never reach for a network.

    Source: the test part of the UCI data set "Optical Recognition of Handwritten
    Digits". The file goes writer by writer, so it is mixed, always in the same order,
    before the last fifth becomes the test part.

    Args:
        limit: at most so many training and so many test images; `None` for all.

    Raises:
        InvalidArgumentError: if scikit-learn is not installed.

    Example:

    >>> digits = load_digits()
    >>> digits.x_train.shape, digits.x_test.shape
    ((1437, 8, 8, 1), (360, 8, 8, 1))
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InvalidArgumentError(
            "The digits come with scikit-learn, which is not installed.",
            received=one_line(error),
            expected="scikit-learn",
            fix="pip install scikit-learn",
        ) from error
    bunch = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    x, y = _images(bunch.images, 16.0)[order], bunch.target.astype("int64")[order]
    split = len(x) * 4 // 5
    return ImageData(
        "digits 8x8 (scikit-learn)",
        x[:split],
        y[:split],
        x[split:],
        y[split:],
        tuple(str(name) for name in bunch.target_names),
    ).first(limit)


def training_images() -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels to train on, for commands: `--train` and the like.

    The last 5000, or the last tenth of fewer, are left to `validation_images`.
    """
    data = load_images()
    held = _held_out(data)
    return data.x_train[:-held], data.y_train[:-held]


def validation_images() -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels to choose on, which `training_images` leaves out."""
    data = load_images()
    held = _held_out(data)
    return data.x_train[-held:], data.y_train[-held:]


def testing_images() -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels that nothing was chosen on."""
    data = load_images()
    return data.x_test, data.y_test


def _held_out(data: ImageData) -> int:
    return min(5000, len(data.x_train) // 10)


def read_fashion_mnist(directory: str | Path) -> ImageData:
    """Returns the images of a folder with the four IDX files, gzipped or plain.

    Args:
        directory: the folder.

    Raises:
        InvalidArgumentError: if a file is missing, damaged or does not fit another.
    """
    arrays = {}
    for part, stem in _IDX_FILES.items():
        path = _find(Path(directory), stem)
        if path is None:
            raise InvalidArgumentError(
                "A file of the data set is missing.",
                received=f"a folder {directory} without {stem}.gz",
                expected="the four IDX files " + ", ".join(_IDX_FILES.values()),
                fix=f"correct {DIRECTORY_VARIABLE}, or install the Debian package "
                "dataset-fashion-mnist",
            )
        arrays[part] = read_idx(path)
    for images, labels in (("x_train", "y_train"), ("x_test", "y_test")):
        if arrays[images].ndim != 3 or arrays[labels].shape != arrays[images].shape[:1]:
            raise InvalidArgumentError(
                "Images and labels do not fit together.",
                received=f"images of shape {arrays[images].shape}, labels of shape "
                f"{arrays[labels].shape} in {directory}",
                expected="images (n, height, width) and labels (n,)",
            )
    return ImageData(
        f"Fashion-MNIST ({directory})",
        _images(arrays["x_train"]),
        arrays["y_train"].astype("int64"),
        _images(arrays["x_test"]),
        arrays["y_test"].astype("int64"),
        _FASHION_CLASSES,
    )


def read_idx(path: str | Path) -> np.ndarray:
    """Returns the unsigned bytes of an IDX file, gzipped or plain.

    Args:
        path: the file.

    Raises:
        InvalidArgumentError: if it is no IDX file of bytes, or not all of it.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidArgumentError(
            f"Cannot read {path}.",
            received=str(error),
            expected="a complete gzipped or plain IDX file",
            fix="fetch the file again",
        ) from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise InvalidArgumentError(
            f"{path} is not an IDX file of unsigned bytes.",
            received=f"a file that begins with {content[:4].hex(' ') or 'nothing'}",
            expected="00 00 08 and the number of dimensions",
        )
    rank = content[3]
    header = 4 + 4 * rank
    shape = (
        struct.unpack(f">{rank}I", content[4:header])
        if len(content) >= header
        else (math.inf,)
    )
    if math.prod(shape) != len(content) - header:
        raise InvalidArgumentError(
            f"{path} has not as many bytes as its header says.",
            received=f"{max(len(content) - header, 0)} bytes after the header",
            expected=f"{' x '.join(map(str, shape))} = {math.prod(shape)}",
            fix="fetch the file again",
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(directory: Path, stem: str) -> Path | None:
    candidates = (directory / f"{stem}.gz", directory / stem)
    return next((path for path in candidates if path.is_file()), None)


def _images(values: np.ndarray, largest: float = 255.0) -> np.ndarray:
    return np.divide(values[..., None], largest, dtype="float32")


def _from_keras() -> ImageData:
    import keras

    (x, y), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    return ImageData(
        "Fashion-MNIST (keras.datasets)",
        _images(x),
        y.astype("int64"),
        _images(x_test),
        y_test.astype("int64"),
        _FASHION_CLASSES,
    )
