"""Arrays that fit the inputs of a model: by name, in shape and in type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.types import Structure


class Port(Protocol):
    """One input of a model or an artifact: a KerasTensor, a `TensorInfo`."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...


def is_array(value: Any) -> bool:
    """Returns whether `value` is one array: of NumPy, TensorFlow, JAX, pandas ...

    A list of numbers or words, or of lists of these, counts as one too.
    """
    if not isinstance(value, list) and isinstance(value, str | bytes | int | float):
        return False
    if hasattr(value, "shape") and not isinstance(value, keras.KerasTensor):
        return any(hasattr(value, name) for name in ("__array__", "numpy", "indices"))
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, bool | int | float | str | bytes)


def widened(array: np.ndarray) -> np.ndarray:
    """Returns an array of bfloat16, to NumPy no number at all, as float32.

    >>> widened(keras.ops.convert_to_numpy(keras.ops.ones((2,), "bfloat16"))).dtype
    dtype('float32')
    """
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def as_numpy(value: Any, name: str) -> np.ndarray:
    """Returns an array of any library as NumPy's; `name` is the input that it is for.

    Raises:
        InvalidArgumentError: for what is not rectangular.
    """
    try:
        if hasattr(value, "indices") and hasattr(value, "dense_shape"):
            return keras.ops.convert_to_numpy(value)
        # TensorFlow's own conversion warns under NumPy 2.
        value = value.numpy() if hasattr(value, "numpy") else value
        array = np.asarray(value)
        ragged = array.dtype == object and len({np.shape(v) for v in array.flat}) > 1
    except ValueError:
        ragged = True
    if ragged:
        raise InvalidArgumentError(
            f"Input {name!r} is given rows of different lengths.",
            received=f"a {type(value).__name__}",
            expected="samples of one shape",
            fix="pad them to one length",
        )
    return widened(array)


def fitted(value: Any, port: Port) -> np.ndarray:
    """Returns an array in the type that an input takes.

    As in `fit`, a last axis of size 1 may be missing, or be too much. Inputs that are
    stored as integers with a scale keep the type they come in.

    Raises:
        InvalidArgumentError: if shape or type do not fit.
    """
    array, shape = as_numpy(value, port.name), tuple(port.shape)
    if array.shape != shape[1:] or len(shape) <= 2:
        if array.ndim == len(shape) - 1 > 0 and shape[-1] == 1:
            array = array[..., None]
        elif array.ndim == len(shape) + 1 and array.shape[-1] == 1:
            array = array[..., 0]
    wanted = ("n", *shape[1:])
    if not _fits(array.shape[1:], shape[1:]) or array.ndim != len(shape):
        alone = _fits(array.shape, shape[1:])
        raise InvalidArgumentError(
            f"Input {port.name!r} has the wrong shape.",
            received=f"shape {array.shape}",
            expected=f"shape {wanted}, n samples along the first axis",
            fix="it looks like a single sample: a tf.data.Dataset needs `.batch(32)`, "
            "an array `x[None]`"
            if alone
            else None,
        )
    return _typed(array, port)


def _fits(sizes: tuple, wanted: tuple) -> bool:
    return len(sizes) == len(wanted) and all(
        want is None or want == size for want, size in zip(wanted, sizes)
    )


def _typed(array: np.ndarray, port: Port) -> np.ndarray:
    dtype = str(port.dtype)
    kind = "numbers" if array.dtype.kind in "biuf" else "text"
    if array.dtype.kind in "cmM" or (kind == "text") != (dtype == "string"):
        raise InvalidArgumentError(
            f"Input {port.name!r} has the wrong type.",
            received=f"values of type {array.dtype}",
            expected="text" if dtype == "string" else f"numbers, as {dtype}",
        )
    if dtype == "string":
        # NumPy has no dtype called "string": objects hold bytes or str.
        return array.astype("object")
    if getattr(port, "scale", None) is not None or array.dtype.name == dtype:
        return array
    if "int" in dtype:
        limits = np.iinfo(dtype)
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
            problem = "fractions (or NaN)"
        elif low < limits.min or high > limits.max:
            problem = f"values from {low} to {high}"
        else:
            return array.astype(dtype)
        raise InvalidArgumentError(
            f"Input {port.name!r} takes whole numbers.",
            received=f"{problem}, of type {array.dtype}",
            expected=f"whole numbers from {limits.min} to {limits.max} ({dtype})",
        )
    return array.astype(keras.backend.standardize_dtype(dtype))


class Unordered(tuple):
    """Inputs of a file that does not say in which order a model takes them."""


def _refuse_order(ports: Sequence[Port]) -> None:
    if isinstance(ports, Unordered):
        raise InvalidArgumentError(
            "The file does not say in which order it takes its inputs.",
            received="arrays without names",
            expected=f"a dict by name: {listed(ports)}",
        )


def by_name(arrays: Any, ports: Sequence[Port]) -> dict[str, np.ndarray]:
    """Returns arrays as a dict by input name, in the types that the inputs take.

    Args:
        arrays: an array, a list or tuple of arrays in the order of the inputs, or a
            dict by input name; samples along the first axis.
        ports: the inputs.

    Raises:
        InvalidArgumentError: if names, number, shapes or types do not fit.
    """
    ordered = in_order(arrays, ports)
    if ordered is None and len(ports) == 1 and isinstance(arrays, list | tuple):
        ordered = [arrays]  # samples, one by one
    if ordered is None:
        raise InvalidArgumentError(
            "The number of inputs does not fit.",
            received=described(arrays),
            expected=f"{len(ports)} arrays, {listed(ports)}",
        )
    return columns(ordered, ports)


def columns(ordered: Sequence[Any], ports: Sequence[Port]) -> dict[str, np.ndarray]:
    """Returns arrays in the order of the inputs as a dict; see `by_name`."""
    found = {port.name: fitted(value, port) for port, value in zip(ports, ordered)}
    counts = {name: len(column) for name, column in found.items()}
    if len(set(counts.values())) > 1:
        raise InvalidArgumentError(
            "The inputs differ in their number of samples.",
            received=counts,
            expected="the same number of samples for each input",
        )
    return found


def in_order(
    value: Any, ports: Sequence[Port], structure: Structure = None
) -> list[Any] | None:
    """Returns one array for each input in their order; None if it is something else.

    Args:
        value: an array, a dict by name, or a list or tuple of as many arrays as there
            are inputs.
        ports: the inputs.
        structure: in which the model takes its inputs, where they are nested.

    Raises:
        InvalidArgumentError: for a dict of other names.
    """
    if is_array(value):
        return [value] if len(ports) == 1 else None
    if structure is not None and _alike(value, structure):
        return keras.tree.flatten(value)
    if isinstance(value, Mapping):
        names = [port.name for port in ports]
        if sorted(map(str, value)) != sorted(names):
            raise InvalidArgumentError(
                "The inputs' names do not fit.",
                received=f"names {sorted(map(str, value))}",
                expected=listed(ports),
            )
        return [value[name] for name in names]
    if isinstance(value, list | tuple) and len(value) == len(ports):
        _refuse_order(ports)
        return list(value) if all(map(is_array, value)) else None
    return None


def _alike(value: Any, structure: Structure) -> bool:
    if is_array(value) or not isinstance(value, type(structure)):
        return False
    try:
        keras.tree.assert_same_structure(value, structure)
    except (ValueError, TypeError):
        return False
    return True


def renamed(
    found: Mapping[str, np.ndarray], ports: Sequence[Port]
) -> dict[str, np.ndarray]:
    """Returns arrays in order of their inputs under the names of another model's."""
    names = [port.name for port in ports]
    same = set(names) == set(found) or len(names) != len(found)
    if not same:
        _refuse_order(ports)
    return dict(found) if same else dict(zip(names, found.values()))


def listed(ports: Sequence[Port]) -> str:
    """Returns the inputs and their shapes, for messages."""
    return ", ".join(f"{p.name}: {('n', *tuple(p.shape)[1:])}" for p in ports)


def described(value: Any) -> str:
    """Returns what an argument holds, for messages."""
    if is_array(value):
        try:
            return f"a {type(value).__name__} of shape {np.shape(value)}"
        except ValueError:
            pass  # lists of different lengths
    if isinstance(value, list | tuple):
        if value and all(map(is_array, value)) and len(value) <= 8:
            shapes = [np.shape(a) for a in value]
            return f"{len(value)} arrays of shapes {shapes}"
        kind = type(value[0]).__name__ if value else "nothing"
        return f"a {type(value).__name__} of {len(value)} entries ({kind} first)"
    return f"a {type(value).__name__}"


def whole_arrays(given: Any, ports: Sequence[Port]) -> dict[str, np.ndarray]:
    """Returns arrays by name that are passed as they are, none of them in samples.

    Args:
        given: a dict by name, a list in the order of the ports, one array for one port,
            or nothing for none.
        ports: what takes them.

    Raises:
        InvalidArgumentError: if there are others, or of another shape.
    """
    names = [port.name for port in ports]
    if not isinstance(given, Mapping):
        listed = given if isinstance(given, (list, tuple)) else [given]
        given = dict(zip(names, listed)) if names else dict(given or {})
    if sorted(given) != sorted(names):
        raise InvalidArgumentError(
            "These are not the inputs of the signature.",
            received=", ".join(map(repr, given)) or "none",
            expected=", ".join(map(repr, names)) or "none: pass {}",
        )
    arrays = {}
    for port in ports:
        array = as_numpy(given[port.name], port.name)
        wanted = tuple(port.shape)
        fits = len(wanted) == array.ndim and all(
            size in (None, found) for size, found in zip(wanted, array.shape)
        )
        if not fits:
            raise InvalidArgumentError(
                f"Input {port.name!r} has the wrong shape.",
                received=array.shape,
                expected=wanted,
            )
        arrays[port.name] = array
    return arrays
