"""What commands read: models, artifacts, and data in several forms."""

from __future__ import annotations

import importlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import tfcompress.child
from tfcompress.child.probing import probe, reading
from tfcompress.child.process import JAIL, ConverterFailure
from tfcompress.cli.app import messages
from tfcompress.cli.pixels import chosen_pixels, scaled
from tfcompress.core.errors import ArtifactError, InvalidArgumentError, one_line
from tfcompress.core.ownership import scratch

DATA_HELP = (
    "module:function that returns it, an .npz file with x (or the inputs by name) and "
    "y, or a directory with a folder of images for each class."
)
_KERAS = (".keras", ".h5", ".hdf5")
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5", "model.weights.npz")
# Bytes of JSON in a .keras file, and what other parts may unpack to: so much, and so
# many times their size.
_LONGEST_TEXT, _SMALL, _DENSEST = 1 << 25, 1 << 24, 64
# Memory of the child process that counts what a config asks for.
_TO_COUNT = 2 << 30
_LABELS = ("y", "sample_weight")
# What Python, YAML and people say.
_WORDS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("none", "null"), None),
}
_BATCH = 32
_ALL = 1 << 62  # more samples than there are


def is_keras(path: Path) -> bool:
    """Returns whether a path is that of a Keras model."""
    return path.suffix.lower() in _KERAS


def load_model(path: Path, compiled: bool = False) -> Any:
    """Returns a Keras model from a .keras or .h5 file.

    Raises:
        ArtifactError: if there is none, or it cannot be read.
    """
    import keras

    import tfcompress.public  # noqa: F401  (registers its layers)

    if not path.is_file() or not is_keras(path):
        missing = not path.exists()
        raise ArtifactError(
            "There is no such file." if missing else "There is no Keras model.",
            received=str(path),
            expected=f"a file that ends in {' or '.join(_KERAS)}",
        )
    if path.suffix != path.suffix.lower():  # which Keras does not know
        with scratch() as folder:
            same = Path(folder) / f"{path.stem}{path.suffix.lower()}"
            same.symlink_to(path.absolute())
            return load_model(same, compiled)
    try:
        weights = _check_members(path)
        probe(path, "HDF5", job="read_hdf5")  # which may read a damaged one for ever
        _check_size(path, weights)
        return keras.saving.load_model(path, compile=compiled)
    except Exception as error:
        raise ArtifactError(
            "The Keras model cannot be read.",
            received=f"{path} ({one_line(error, 300)})",
            expected="a model that keras.saving.load_model reads in safe mode",
            fix="import the module with your own layers by --import",
        ) from error


def _check_members(path: Path) -> int | None:
    """Returns the bytes of the weights in a .keras file; None for another kind of file.

    Keras unpacks everything that is in it, and leaves that where loading fails.

    Raises:
        ValueError: if it holds what Keras does not write, or much more than its size.
    """
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        return None
    from tfcompress.exporters.publishing import is_inside

    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    odd = [n for n in names if n not in _MEMBERS and not n.startswith("assets/")]
    odd += [n for n in names if not is_inside(n.rstrip("/"))]
    if odd or len(set(names)) < len(names):
        raise ValueError(f"it holds {odd or names}, not only {', '.join(_MEMBERS)}")
    for entry in entries:
        text = entry.filename.endswith(".json")
        most = _LONGEST_TEXT if text else _SMALL + _DENSEST * entry.compress_size
        if entry.file_size > most:
            raise ValueError(
                f"{entry.filename} unpacks to {entry.file_size:,} bytes, of which at "
                f"most {most:,} are expected"
            )
    return sum(e.file_size for e in entries if e.filename.startswith("model.weights"))


def _check_size(path: Path, weights: int | None) -> None:
    """Raises `ValueError` if the config asks for more numbers than the file holds."""
    script = str(Path(tfcompress.child.__file__).with_name("_keras_worker.py"))
    job = {**reading(path), "job": "count", "script": script, "memory": _TO_COUNT}
    if weights is None:
        job |= {"job": "load", "memory": _TO_COUNT + 8 * path.stat().st_size}
    try:
        count = JAIL.run(job).get("count")
    except ConverterFailure as failure:
        raise ValueError(f"its config cannot be built ({failure.reason})") from None
    # A number is a byte at least. Of classes that the child does not know, that the
    # user imports, nothing can be said.
    if count is not None and weights is not None and count > weights:
        raise ValueError(
            f"its config asks for {count:,} numbers, and its weights are {weights:,} "
            "bytes"
        )


def load_subject(path: Path) -> Any:
    """Returns a Keras model or an artifact."""
    from tfcompress.exporters.artifact import Artifact

    return load_model(path) if is_keras(path) else Artifact.read(path)


def read_data(
    where: str,
    subjects: Sequence[Any],
    pixels: str | None = None,
    count: int | None = None,
) -> Any:
    """Returns data for models or artifacts, and says how images are scaled.

    Args:
        where: see `DATA_HELP`.
        subjects: what will read them; all take the same.
        pixels: what the user says of the values of pixels.
        count: how many samples will be read; None for all.
    """
    if not Path(where).is_dir():
        data = load_data(where)
        return _sorted_out(data, where, subjects[0]) if _is_file(where) else data
    values, reason = chosen_pixels(subjects, pixels)
    inputs = list(getattr(subjects[0], "inputs", None) or ())
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else None
    stored = any(getattr(port, "scale", None) is not None for port in inputs)
    dtype = "float32" if stored or not inputs else str(inputs[0].dtype)
    data = load_data(where, shape, values, dtype, count)
    messages.print(f"Pixels: {values}, {reason}.", highlight=False, soft_wrap=True)
    return data


def load_data(
    where: str,
    shape: tuple[int | None, ...] | None = None,
    pixels: str = "0..1",
    dtype: str = "float32",
    count: int | None = None,
) -> Any:
    """Returns data: arrays by name, a data set, or what a function returns.

    Args:
        where: see `DATA_HELP`.
        shape: of the model's input, which images are brought to.
        pixels: one of `PIXELS`, to which images are brought.
        dtype: of the model's input.
        count: how many images will be read; None for all.

    Raises:
        InvalidArgumentError: if there are none.
    """
    path = Path(where)
    if _is_file(where):
        return _arrays(path)
    if path.is_dir():
        return _images(path, shape, scaled(pixels, dtype), count)
    module, separator, name = where.partition(":")
    if not separator:
        kind = ", a file of another kind" if path.exists() else ""
        raise InvalidArgumentError(
            "There are no data.", received=f"{where!r}{kind}", expected=DATA_HELP
        )
    return _called(module, name)


def only_inputs(data: Any, count: int, subject: Any) -> Any:
    """Returns the first inputs of data for a model or artifact, without labels."""
    from tfcompress.core.data import columns_of

    ports = getattr(subject, "inputs", None)
    if not ports:  # a subclassed model, which does not say what it takes
        from tfcompress.compression.data import Data

        return Data("inputs", data, _BATCH).head(count)[0]
    columns = list(columns_of(data, ports, "inputs", count).values())
    return columns[0] if len(columns) == 1 else columns


def labelled(data: Any) -> tuple[Any, Any]:
    """Returns all inputs of data, and their labels."""
    from tfcompress.compression.data import Data

    if isinstance(data, tuple) and len(data) == 1:
        raise InvalidArgumentError(
            "The data have no labels.",
            received="inputs alone",
            expected="y beside them",
            fix="np.savez(path, x=..., y=...)",
        )
    return Data("data", data, _BATCH).head(_ALL)


def named_value(text: str) -> tuple[str, Any]:
    """Returns what `name=value` says: a number, a truth, nothing, or else a word.

    >>> named_value("opset=18"), named_value("overwrite=No"), named_value("x=int8")
    (('opset', 18), ('overwrite', False), ('x', 'int8'))
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise InvalidArgumentError(
            "An option has no value.", received=repr(text), expected="name=value"
        )
    if value.lower() in _WORDS:
        return name, _WORDS[value.lower()]
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def import_modules(names: list[str]) -> None:
    """Imports modules of the user's, with the layers that a model is made of."""
    for name in names:
        _import(name)


def _called(module: str, name: str) -> Any:
    function = getattr(_import(module), name, None)
    if not callable(function):
        raise InvalidArgumentError(
            f"Module '{module}' has no function of this name.",
            received=repr(name),
            expected=DATA_HELP,
        )
    return function()


def _import(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidArgumentError(
            "The module cannot be imported.",
            received=f"{name} ({error})",
            expected="a module in this directory, or one that is installed",
        ) from error


def _is_file(where: str) -> bool:
    return Path(where).suffix.lower() == ".npz"


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        # NumPy leaves a file open in which it finds something wrong.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # damage shows as any exception of the readers
        raise InvalidArgumentError(
            "The data cannot be read.",
            received=f"{path} ({error if is_zipfile(path) else 'no zip archive'})",
            expected="an .npz file of plain arrays: np.savez(path, x=..., y=...)",
        ) from error


def _sorted_out(found: dict[str, Any], where: str, subject: Any) -> tuple[Any, ...]:
    """Returns arrays by name as `(x, y, sample_weight)`, or the first of these.

    What bears the name of an input is that input. `x` stands for a single one; all
    that is no label, for those of a subclassed model, which does not say their names.
    """
    names, rest = _input_names(subject), dict(found)
    if set(names) <= set(found):
        taken = names or [name for name in found if name not in _LABELS]
    else:
        taken = ["x"] if len(names) == 1 and "x" in found else []
    inputs = {name: rest.pop(name) for name in taken}
    labels = {name: rest.pop(name) for name in _LABELS if name in rest}
    if not inputs:
        missing = ", ".join(name for name in names if name not in found)
        problem = f"Arrays for {missing or 'the inputs'} are missing."
    elif rest:
        problem = f"Arrays are no inputs of the model: {', '.join(rest)}."
    elif list(labels) == ["sample_weight"]:
        problem = "There is a sample_weight, and no y that it is for."
    else:
        if list(inputs) == ["x"] or len(names) == 1:
            return (*inputs.values(), *labels.values())
        # Inputs without a name of their own are told apart by their order alone.
        unnamed = names and names != [port.name for port in subject.inputs]
        return (list(inputs.values()) if unnamed else inputs, *labels.values())
    expected = ", ".join(names) or "x, or the inputs by name"
    raise InvalidArgumentError(
        problem,
        received=f"{where} with {', '.join(found) or 'nothing'}",
        expected=f"{expected}{' (or x)' * (len(names) == 1)}; y and sample_weight for "
        "labels, unless inputs are called so",
        fix="name the arrays so, or let a function return the data (module:function)",
    )


def _input_names(subject: Any) -> list[str]:
    from tfcompress.exporters.tracing import input_names

    if not getattr(subject, "inputs", None):
        return []
    if hasattr(subject, "layers"):
        return input_names(subject)
    return [port.name for port in subject.inputs]


def _images(
    path: Path,
    shape: tuple[int | None, ...] | None,
    scale: Callable[[Any], Any],
    count: int | None,
) -> Any:
    import keras

    flat = shape is not None and len(shape) == 3
    shape = (*shape, 1) if flat and shape is not None else shape
    if shape is None or len(shape) != 4 or shape[-1] not in (1, 3):
        raise InvalidArgumentError(
            "A directory of images is for models that take one image.",
            received=f"a model whose input has shape {shape}",
            expected="(batch, height, width, 1 or 3)",
        )
    try:
        found = keras.utils.image_dataset_from_directory(
            path,
            image_size=(shape[1] or 224, shape[2] or 224),
            color_mode="grayscale" if shape[-1] == 1 else "rgb",
            batch_size=_BATCH,
            shuffle=False,
            verbose=False,
        )
    except ValueError as error:
        raise InvalidArgumentError(
            "The directory has no images.",
            received=f"{path} ({error})",
            expected="a folder for each class with .png, .jpg, .bmp or .gif files",
        ) from error
    _check_images(found.file_paths[:count], shape[-1])
    return found.map(lambda x, y: (scale(x[..., 0] if flat else x), y))


def _check_images(paths: Sequence[str], channels: int) -> None:
    """Raises if a file is no image: TensorFlow says so late, and not of which file."""
    import tensorflow as tf

    damaged = []
    for path in paths:
        try:
            content = tf.io.read_file(path)
            tf.io.decode_image(content, channels, expand_animations=False)
        except tf.errors.OpError:
            damaged.append(path)
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise InvalidArgumentError(
            "An image cannot be read.",
            received=", ".join(damaged[:3]) + more,
            expected="whole .png, .jpg, .bmp or .gif files",
            fix="repair or remove it",
        )
