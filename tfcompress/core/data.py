"""The one reader of data: what arrays, tuples, dicts, lists and data sets mean.

| what is given | is read as |
|---|---|
| an array | the input of a model with one |
| a dict by input name | the inputs |
| a tuple `(x, y)` or `(x, y, w)`, as for `fit` | `x`, and labels where asked for |
| a tuple or list of as many arrays as the model has inputs (two or more) | the inputs |
| a list of anything else | batches |
| `tf.data.Dataset`, `keras.utils.PyDataset`, other iterables | batches |
| a generator | batches, where one pass is enough |

A batch is an array, a dict, or a tuple or list as above. So what is ambiguous is
decided by the model's own inputs, and what does not fit them is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.core.arrays import (
    Port,
    columns,
    described,
    fitted,
    in_order,
    is_array,
    listed,
)
from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.core.types import Structure

_BATCH = 64
_KINDS = "arrays, a tf.data.Dataset, a keras.utils.PyDataset, or a list of batches"


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads data for the inputs of one model.

    Args:
        ports: the inputs, each with `name`, `shape` and `dtype`.
        structure: in which the model takes them; None for a flat list.
        name: what errors call the data.
    """

    ports: Sequence[Port]
    structure: Structure = None
    name: str = "data"

    @classmethod
    def of(cls, model: keras.Model, name: str = "data") -> Reader:
        """Returns the reader for a Functional or Sequential model."""
        if isinstance(model, keras.Sequential):
            return cls(model.inputs, model.inputs[0], name)
        return cls(model.inputs, model.input, name)

    def arrays(self, data: Any) -> tuple[list[Any], tuple] | None:
        """Returns inputs in their order and `(y, w)`; None if `data` are batches."""
        if isinstance(data, list) and not is_array(data):
            ordered = in_order(data, self.ports, self.structure)
            if ordered is None and self._are_samples(data):
                ordered = [np.stack([np.asarray(sample) for sample in data])]
            return None if ordered is None else (ordered, ())
        whole = is_array(data) or isinstance(data, tuple | Mapping)
        return self.entry(data) if whole else None

    def entry(self, value: Any) -> tuple[list[Any], tuple]:
        """Returns the inputs of `value`, arrays or a batch, in order, and `(y, w)`."""
        ordered = in_order(value, self.ports, self.structure)
        if ordered is not None:
            return ordered, ()
        if isinstance(value, tuple | list) and 1 <= len(value) <= 3:
            ordered = in_order(value[0], self.ports, self.structure)
            if ordered is not None:
                return ordered, tuple(value[1:])
        raise InvalidArgumentError(
            f"`{self.name}` does not fit the model's inputs.",
            received=described(value),
            expected=f"{listed(self.ports)}, or (x, y) of these and labels",
            fix="name them in a dict: {name: array}; a list holds batches",
        )

    def columns(self, ordered: list[Any], labels: tuple = ()) -> dict[str, np.ndarray]:
        """Returns checked arrays by input name."""
        found = columns(ordered, self.ports)
        count = len(next(iter(found.values())))
        for leaf in keras.tree.flatten(labels):
            if leaf is not None and np.ndim(leaf) and len(leaf) != count:
                raise InvalidArgumentError(
                    f"The labels of `{self.name}` are not as many as its inputs.",
                    received=f"{len(leaf)} labels of {count} samples",
                    expected="one for each sample",
                )
        return found

    def packed(self, found: Mapping[str, np.ndarray]) -> Any:
        """Returns arrays by input name as the model takes them."""
        ordered = [found[port.name] for port in self.ports]
        if self.structure is None:
            return ordered
        return keras.tree.pack_sequence_as(self.structure, ordered)

    def batches(self, data: Any) -> Iterator[tuple[dict[str, np.ndarray], tuple]]:
        """Yields `(inputs by name, (y, w))` of batches that someone made."""
        number = -1
        for number, batch in enumerate(entries(data)):
            try:
                ordered, labels = self.entry(batch)
                yield self.columns(ordered, labels), labels
            except InvalidArgumentError as error:
                if number == 0 or not isinstance(data, list):
                    raise
                raise InvalidArgumentError(
                    f"Entry {number} of the list `{self.name}` is no batch of the "
                    f"model's inputs. {error}",
                    fix="a list holds batches; inputs with labels are a tuple, (x, y)",
                ) from error

    def _are_samples(self, data: list) -> bool:
        """Returns whether `data` are arrays that lack the axis of samples."""
        rank = len(tuple(self.ports[0].shape)) - 1
        return (
            len(self.ports) == 1
            and bool(data)
            and all(is_array(sample) and np.ndim(sample) == rank for sample in data)
            and len({np.shape(sample) for sample in data}) == 1
        )


class Inputs:
    """The inputs of a model, batch by batch, as often as they are asked for.

    Args:
        data: see the table above; labels are not used.
        model: a Functional or Sequential model.
        name: what errors call the data.
        batch_size: of arrays.

    Raises:
        InvalidArgumentError: for data that are empty, never end, can be read only
            once, or do not fit the model.
    """

    def __init__(
        self,
        data: Any,
        model: keras.Model,
        name: str = "data",
        batch_size: int = _BATCH,
    ):
        self._data, self._reader = data, Reader.of(model, name)
        check_readable(data, name)
        arrays = self._reader.arrays(data)
        self._columns = None if arrays is None else self._reader.columns(*arrays)
        fixed = next(iter(model.inputs[0].shape), None)
        self._size, self._fixed = fixed or batch_size, fixed is not None
        if self._fixed:
            self._columns = self._whole_batches()
        if next(iter(self), None) is None:
            raise InvalidArgumentError(
                f"`{name}` is empty.",
                received=described(data),
                expected="some batches of typical inputs",
            )

    def __iter__(self) -> Iterator[Any]:
        if self._columns is None:
            for found, _ in self._reader.batches(self._data):
                count = len(next(iter(found.values())))
                if self._fixed and count != self._size:
                    self._refuse_size(count)
                if count:
                    yield self._reader.packed(found)
            return
        count = len(next(iter(self._columns.values())))
        for start in range(0, count, self._size):
            part = slice(start, start + self._size)
            yield self._reader.packed({n: c[part] for n, c in self._columns.items()})

    def _whole_batches(self) -> dict[str, np.ndarray] | None:
        """Returns arrays without what does not fill a batch of the model's size."""
        if self._columns is None:
            return None
        count = len(next(iter(self._columns.values())))
        rest = count % self._size
        if count == rest:
            self._refuse_size(count)
        if rest:
            warn(
                f"The model takes batches of {self._size}: the last {rest} of {count} "
                f"samples of `{self._reader.name}` are not read."
            )
        return {name: c[: count - rest] for name, c in self._columns.items()}

    def _refuse_size(self, count: int) -> None:
        raise InvalidArgumentError(
            f"The batches of `{self._reader.name}` do not have the model's size.",
            received=f"{count} samples",
            expected=f"{self._size}, which is part of the model's input",
        )


def inputs_of(data: Any, model: keras.Model, name: str = "data") -> Inputs:
    """Returns the inputs of a Functional or Sequential model; see `Inputs`.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> x, y = np.zeros((100, 3)), np.zeros((100, 2))
    >>> [len(batch) for batch in inputs_of((x, y), model)]
    [64, 36]
    >>> [len(batch) for batch in inputs_of([(x, y), (x[:5], y[:5])], model)]
    [100, 5]
    """
    return Inputs(data, model, name)


def columns_of(
    data: Any, ports: Sequence[Port], name: str = "inputs", at_most: int | None = None
) -> dict[str, np.ndarray]:
    """Returns the inputs of `data` as one array for each, read once.

    Args:
        data: see the table above; labels are not used.
        ports: the inputs of a model or an artifact.
        name: what errors call the data.
        at_most: how many samples are enough; None reads all of them.

    Raises:
        InvalidArgumentError: for data that do not fit, or never end.

    Example:

    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    >>> columns_of([np.zeros((4, 3)), np.zeros((5, 3))], model.inputs)["x"].shape
    (9, 3)
    """
    reader = Reader(ports, name=name)
    check_readable(data, name, once=True, endless=at_most is not None)
    arrays = reader.arrays(data)
    if arrays is not None:
        return {n: c[:at_most] for n, c in reader.columns(*arrays).items()}
    parts: list[dict[str, np.ndarray]] = []
    count = 0
    for found, _ in reader.batches(data):
        parts.append(found)
        count += len(next(iter(found.values())))
        if at_most is not None and count >= at_most:
            break
    if not parts:
        return {port.name: fitted(_none(port), port) for port in ports}
    names = [port.name for port in ports]
    return {n: np.concatenate([p[n] for p in parts])[:at_most] for n in names}


def _none(port: Port) -> np.ndarray:
    sizes = [size or 1 for size in tuple(port.shape)[1:]]
    text = str(port.dtype) == "string"
    return np.zeros((0, *sizes), "object" if text else "float32")


def pairs_of(
    data: Any, name: str = "data", once: bool = False
) -> tuple[Any, ...] | Iterable[tuple[Any, ...]]:
    """Returns inputs with labels: `(x, y[, w])` of arrays, or batches of these.

    Args:
        data: see the table above, as `fit` takes it: of a model with several inputs
            `x` is a tuple, list or dict of its own.
        name: what errors call the data.
        once: whether one pass is enough.

    Raises:
        InvalidArgumentError: for data that cannot be read, never end or have no
            labels.

    Example:

    >>> x, y = np.zeros((4, 3)), np.zeros((4, 2))
    >>> [len(labels) for _, labels in pairs_of([(x, y), (x, y)])]
    [4, 4]
    """
    check_readable(data, name, once)
    if is_array(data) or isinstance(data, Mapping):
        _refuse_no_labels(name, data)
    if isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise InvalidArgumentError(
                f"`{name}` is a tuple of another length.",
                received=f"{len(data)} entries",
                expected="(x, y) or (x, y, sample_weight)",
            )
        if data[1] is None:
            _refuse_no_labels(name, data)
        return data
    return _Pairs(data, name)


class _Pairs:
    """Batches `(x, y[, w])`, as often as they are asked for."""

    def __init__(self, data: Any, name: str):
        self._data, self._name = data, name

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in entries(self._data):
            pair = isinstance(batch, tuple | list) and 2 <= len(batch) <= 3
            if not pair or is_array(batch) or batch[1] is None:
                _refuse_no_labels(self._name, batch)
            yield tuple(batch)


def _refuse_no_labels(name: str, received: Any) -> None:
    raise InvalidArgumentError(
        f"`{name}` has no labels, or hides them.",
        received=described(received),
        expected="(x, y) or (x, y, sample_weight), or batches of these, as for fit",
        fix="put arrays into a tuple; a list holds batches",
    )


def entries(data: Any) -> Iterator[Any]:
    """Yields the batches that someone made."""
    if isinstance(data, keras.utils.PyDataset):
        for index in range(data.num_batches or 0):
            yield data[index]
    else:
        yield from data


def check_readable(
    data: Any, name: str = "data", once: bool = False, endless: bool = False
) -> None:
    """Raises unless `data` can be read as the table above says.

    Args:
        data: what the user gave.
        name: what errors call it.
        once: whether one pass is enough.
        endless: whether only the beginning is read.
    """
    if is_array(data) or isinstance(data, Mapping | keras.utils.PyDataset):
        count = getattr(data, "num_batches", 0)
    elif isinstance(data, str | bytes) or not isinstance(data, Iterable):
        call = callable(data) and not hasattr(data, "__self__")
        raise InvalidArgumentError(
            f"`{name}` cannot be read.",
            received=type(data).__name__,
            expected=_KINDS,
            fix="call it and pass list(...) of what it gives" if call else None,
        )
    elif iter(data) is data:
        count = 0
        if not once:
            raise InvalidArgumentError(
                f"`{name}` can be read only once, and it is read several times.",
                received=f"a {type(data).__name__}",
                expected=_KINDS,
                fix="pass list(data), or use tf.data.Dataset.from_generator, which "
                "begins anew each time",
            )
    else:
        cardinality = getattr(data, "cardinality", None)
        # -1 is infinite and -2 unknown.
        count = None if cardinality is not None and int(cardinality()) == -1 else 0
    if count is None and not endless:
        raise InvalidArgumentError(
            f"`{name}` never ends.",
            received=f"an infinite {type(data).__name__}",
            expected="one pass over the data",
            fix="cut it with dataset.take(steps)"
            if hasattr(data, "take")
            else "give it a `num_batches`",
        )
