"""Runners: the same call for every format, arrays in and arrays out."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tfcompress.core.arrays import by_name, whole_arrays
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.tensors import TensorInfo, known_signature

_BATCH = 256


class Runner:
    """Runs one model on arrays; subclasses say how one batch is run.

    `load` returns one. Call it with an array, a list of arrays in the order of
    `inputs`, or a dict by input name; samples lie along the first axis. It returns
    an array for one output, else a dict by output name.

    Args:
        inputs: the inputs of the model.
        outputs: the outputs of the model.

    Example:

    ```python
    runner = tfcompress.load("student.tflite")
    scores = runner(images)
    scores = runner({"image": images})
    ```
    """

    #: What to call it in tables.
    name = "runner"
    #: CPU threads asked for; None where the runtime decides itself.
    threads: int | None = None

    #: What it imitates, at another speed; empty where it is the thing itself.
    simulates = ""

    #: Whether the runtime itself takes calls of several threads at once.
    takes_many_calls = False

    #: Whether arrays are passed as they are: of signatures such as "restore", whose
    #: inputs have no axis of samples.
    whole = False
    #: Returns the runner of another signature; None of an artifact with one.
    others: Callable[[str], Runner] | None = None

    def __init__(self, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]):
        self.inputs = inputs
        self.outputs = outputs

    @property
    def _turn(self) -> contextlib.AbstractContextManager:
        """Lets one thread at a time into a runtime that takes one call at a time."""
        if self.takes_many_calls:
            return contextlib.nullcontext()
        return _TURNS.of(self)

    @property
    def batch_size(self) -> int | None:
        """Samples per call that the model is made for; None for any number."""
        return self.inputs[0].shape[0] if self.inputs[0].shape else None

    def __call__(
        self, arrays: Any, raw: bool = False
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Runs the model on all samples, at most 256 in one call of it.

        As with `predict` of Keras, an output that depends on what else is in the call
        (a mean over all samples) is that of its call.

        Args:
            arrays: the inputs; any number of samples, also for a static batch.
            raw: whether quantized inputs and outputs are passed as the integers
                they are stored as, instead of as floats.

        Raises:
            InvalidArgumentError: if the arrays do not fit the inputs.
        """
        results = self.run(arrays, raw)
        return results[self.outputs[0].name] if len(results) == 1 else results

    def with_signature(self, name: str) -> Runner:
        """Returns the runner of another signature of the same artifact.

        Use it where signatures work together: both see what the runtime keeps between
        calls, such as the weights that a signature trains.

        Raises:
            InvalidArgumentError: if the artifact has no such signature.
        """
        if self.others is None:
            known_signature(name, (), self.name)
        assert self.others is not None
        return self.others(name)

    def run(self, arrays: Any, raw: bool = False) -> dict[str, np.ndarray]:
        """Runs the model on all samples; returns a dict by output name always."""
        if self.whole:
            return self._run_whole(arrays, raw)
        columns = self.prepare(arrays, raw)
        count = len(next(iter(columns.values())))
        size = self.batch_size or min(_BATCH, count)
        parts: dict[str, list[np.ndarray]] = {info.name: [] for info in self.outputs}
        for start in range(0, count, size):
            batch = {n: c[start : start + size] for n, c in columns.items()}
            taken = len(next(iter(batch.values())))
            if taken < size and self.batch_size:
                batch = {n: _padded(part, size) for n, part in batch.items()}
            with self._turn:
                found = self.run_batch(batch)
            for name, value in found.items():
                parts[name].append(_rows(value, size, taken))
        return {
            info.name: _finish(_joined(parts[info.name], info, size), info, raw)
            for info in self.outputs
        }

    def _run_whole(self, arrays: Any, raw: bool) -> dict[str, np.ndarray]:
        given = whole_arrays(arrays, self.inputs)
        for info in self.inputs:
            array = given[info.name]
            as_integers = info.quantized and not raw
            given[info.name] = (
                quantized(array, info) if as_integers else array.astype(info.dtype)
            )
        with self._turn:
            found = self.run_batch(given)
        return {i.name: _finish(found[i.name], i, raw) for i in self.outputs}

    def prepare(self, arrays: Any, raw: bool = False) -> dict[str, np.ndarray]:
        """Returns the inputs by name, in the dtypes the model takes."""
        columns = by_name(arrays, self.inputs)
        for info in self.inputs:
            array = columns[info.name]
            if len(array) == 0:
                raise InvalidArgumentError(
                    f"Input {info.name!r} holds no samples.",
                    received=f"shape {array.shape}",
                    expected="at least one sample along the first axis",
                )
            if info.scale is not None and not raw:
                _refuse_nan(array, info)
                columns[info.name] = quantized(array, info)
            elif array.dtype.name != info.dtype and info.dtype != "string":
                raise InvalidArgumentError(
                    f"Input {info.name!r} has the wrong dtype for raw=True.",
                    received=array.dtype.name,
                    expected=info.dtype,
                )
        return columns

    def run_batch(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one batch of prepared arrays; returns raw outputs by name."""
        return self.bind(batch)()

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that runs the model once on this prepared batch."""
        raise NotImplementedError


class _Turns:
    """A lock for each runner, new ones in a forked process.

    A runner may come from a subclass that calls no `__init__`, and a fork may happen
    while another thread holds the lock.
    """

    def __init__(self) -> None:
        self._locks: weakref.WeakKeyDictionary[Runner, threading.RLock] = (  # type: ignore[valid-type]
            weakref.WeakKeyDictionary()
        )
        self._making = threading.Lock()

    def of(self, runner: Runner) -> Any:
        with self._making:
            return self._locks.setdefault(runner, threading.RLock())


_TURNS = _Turns()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_TURNS.__init__)  # type: ignore[misc]


def quantized(array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Returns real values as the integers that stand for them.

    >>> quantized(np.array([0.0, 1.0, 99.0]), TensorInfo("x", (3,), "int8", 0.5, 3))
    array([  3,   5, 127], dtype=int8)
    """
    limits = np.iinfo(info.dtype)
    steps = np.rint(np.asarray(array, "float64") / info.scale) + info.zero_point
    return np.clip(steps, limits.min, limits.max).astype(info.dtype)


def dequantized(array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Returns the real values that integers stand for, as float32.

    >>> dequantized(np.array([3, 5], "int8"), TensorInfo("x", (2,), "int8", 0.5, 3))
    array([0., 1.], dtype=float32)
    """
    assert info.scale is not None
    assert info.zero_point is not None
    shifted = array.astype("int32") - info.zero_point
    return shifted.astype("float32") * np.float32(info.scale)


def _refuse_nan(array: np.ndarray, info: TensorInfo) -> None:
    if array.dtype.kind == "f" and (count := int(np.isnan(array).sum())):
        raise InvalidArgumentError(
            f"Input {info.name!r} holds NaN, which no integer stands for.",
            received=f"{count} of {array.size} values",
            expected=f"numbers, which the model takes as {info.dtype}",
            fix="fill in what is missing, as in the training data",
        )


def _finish(array: np.ndarray, info: TensorInfo, raw: bool) -> np.ndarray:
    return array if raw or info.scale is None else dequantized(array, info)


def _joined(parts: list[np.ndarray], info: TensorInfo, size: int) -> np.ndarray:
    shapes = sorted({part.shape[1:] for part in parts})
    if len(shapes) > 1:
        raise InvalidArgumentError(
            f"Output {info.name!r} has another shape in each call of {size} samples.",
            received=f"shapes {', '.join(map(str, shapes))}",
            expected="one shape for all samples",
            fix=f"pass at most {size} samples, or samples of one length",
        )
    return np.concatenate(parts)


def _padded(part: np.ndarray, size: int) -> np.ndarray:
    # Repeats a real sample: zeros could be no valid input.
    return np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])


def _rows(value: np.ndarray, size: int, taken: int) -> np.ndarray:
    # An output without a batch axis becomes one row per call.
    if value.ndim == 0 or value.shape[0] not in (size, taken):
        return value[None]
    return value[:taken]
