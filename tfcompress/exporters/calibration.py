"""Brings calibration data of any shape into one array per model input."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import TensorInfo

MAX_SAMPLES = 1000


def collect(
    data: Any, inputs: Sequence[TensorInfo], batch_size: int
) -> dict[str, np.ndarray]:
    """Returns up to `MAX_SAMPLES` samples, one array per input name.

    Args:
        data: an array, a list or dict of arrays (samples along the first axis), or
            an iterable of batches such as a `tf.data.Dataset`; of `(x, y)` batches
            the `x` is taken.
        inputs: the inputs of the model.
        batch_size: the least number of samples that are needed.

    Raises:
        InvalidArgumentError: if shapes do not fit or there are too few samples.
    """
    if isinstance(data, Mapping) or hasattr(data, "shape") or _is_columns(data, inputs):
        columns = by_name(data, inputs)
    else:
        batches: list[dict[str, np.ndarray]] = []
        count = 0
        for batch in data:
            part = batch[0] if isinstance(batch, tuple) else batch
            batches.append(by_name(part, inputs))
            count += len(next(iter(batches[-1].values())))
            if count >= MAX_SAMPLES:
                break
        columns = {
            i.name: np.concatenate([b[i.name] for b in batches])
            if batches
            else _none(i)
            for i in inputs
        }
    columns = {name: column[:MAX_SAMPLES] for name, column in columns.items()}
    if min(map(len, columns.values())) < batch_size:
        raise InvalidArgumentError(
            "Too few calibration samples.",
            received={name: column.shape for name, column in columns.items()},
            expected=f"at least {batch_size}, better 100 to 500",
        )
    return columns


def by_name(arrays: Any, inputs: Sequence[TensorInfo]) -> dict[str, np.ndarray]:
    """Returns `arrays` as a dict by input name, cast to the inputs' dtypes.

    Quantized inputs keep the dtype they come in.

    Raises:
        InvalidArgumentError: if names, number or shapes do not fit.
    """
    expected = ", ".join(f"{i.name}: {('n', *i.shape[1:])}" for i in inputs)
    if isinstance(arrays, Mapping):
        if sorted(arrays) != sorted(i.name for i in inputs):
            raise InvalidArgumentError(
                "The inputs' names do not fit.",
                received=f"names {sorted(arrays)}",
                expected=expected,
            )
        ordered = [arrays[i.name] for i in inputs]
    elif len(inputs) == 1 and not (
        isinstance(arrays, (list, tuple)) and len(arrays) == 1
    ):
        ordered = [arrays]
    elif isinstance(arrays, (list, tuple)) and len(arrays) == len(inputs):
        ordered = list(arrays)
    else:
        raise InvalidArgumentError(
            "The number of inputs does not fit.",
            received=_shapes(arrays),
            expected=f"{len(inputs)} arrays, {expected}",
        )
    columns = {}
    for info, value in zip(inputs, ordered):
        # TensorFlow's own conversion warns under NumPy 2.
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        # NumPy has no dtype called "string": objects hold bytes or str.
        dtype = "object" if info.dtype == "string" else info.dtype
        if info.scale is None and array.dtype.name != dtype:
            array = array.astype(dtype)
        wanted = info.shape[1:]
        fits = array.ndim == len(info.shape) and all(
            want is None or want == got for want, got in zip(wanted, array.shape[1:])
        )
        if not fits:
            raise InvalidArgumentError(
                f"Input {info.name!r} has the wrong shape.",
                received=f"shape {array.shape}",
                expected=f"shape {('n', *wanted)}, n samples along the first axis",
            )
        columns[info.name] = array
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise InvalidArgumentError(
            "The inputs differ in their number of samples.",
            received=counts,
            expected="the same number of samples for each input",
        )
    return columns


def _is_columns(data: Any, inputs: Sequence[TensorInfo]) -> bool:
    # A list of arrays with as many entries as inputs is columns, not batches, when
    # there is more than one input or the entries have no common batch reading.
    return isinstance(data, list) and len(inputs) > 1 and len(data) == len(inputs)


def _none(info: TensorInfo) -> np.ndarray:
    return np.zeros((0, *(size or 1 for size in info.shape[1:])), info.dtype)


def _shapes(arrays: Any) -> str:
    if isinstance(arrays, (list, tuple)):
        return f"{len(arrays)} arrays of shapes {[np.shape(a) for a in arrays]}"
    return f"one array of shape {np.shape(arrays)}"
