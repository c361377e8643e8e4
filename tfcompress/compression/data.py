"""Data: what `fit` takes, read again and again."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.core.data import Reader, pairs_of
from tfcompress.core.errors import CompressionError, InvalidArgumentError, one_line

_AT_ONCE = 500


class Data:
    """Samples and labels, in memory or in batches that someone makes.

    Args:
        name: what errors call it.
        given: `(x, y)` or `(x, y, sample_weight)` of arrays, a list of such batches,
            a finite `tf.data.Dataset` of batches, or a `keras.utils.PyDataset`.
        batch_size: of arrays.
        model: whose inputs they are to fit; None checks nothing.

    Raises:
        InvalidArgumentError: for data that end after one pass or never, are empty, or
            do not fit together.
    """

    def __init__(
        self,
        name: str,
        given: Any,
        batch_size: int,
        model: keras.Model | None = None,
    ):
        pairs = pairs_of(given, name)
        if isinstance(given, list) and given:  # batches in memory are arrays
            pairs = _joined(name, list(pairs))
        self.in_memory = isinstance(pairs, tuple)
        self.name, self.batch_size = name, batch_size
        self.given: Any = given
        if isinstance(pairs, tuple):
            self.given = _arrays(name, pairs)
            _check_finite(name, self.given[0])
        self.count = self._count(name)
        if not self.in_memory:
            next(iter(pairs))  # which says where labels are missing
        if model is not None:
            reader = Reader.of(model, name)
            reader.columns(*reader.entry(next(self.batches())))

    def batches(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yields `(x, y, sample_weight)` of all batches, as arrays and in order."""
        if self.in_memory:
            for start in range(0, self.count, self.batch_size):
                part = slice(start, start + self.batch_size)
                batch = keras.tree.map_structure(lambda a: a[part], self.given)  # noqa: B023
                yield keras.utils.unpack_x_y_sample_weight(batch)
        elif isinstance(self.given, keras.utils.PyDataset):
            for index in range(self.count):
                yield keras.utils.unpack_x_y_sample_weight(self.given[index])
        else:
            for batch in self.given:
                batch = keras.tree.map_structure(keras.ops.convert_to_numpy, batch)
                yield keras.utils.unpack_x_y_sample_weight(batch)

    def head(self, count: int) -> tuple[Any, Any]:
        """Returns the first inputs and labels, at most `count` of each."""
        parts, taken = [], 0
        for x, y, _ in self.batches():
            parts.append((x, y))
            taken += len(keras.tree.flatten(x)[0])
            if taken >= count:
                break
        return keras.tree.map_structure(lambda *a: np.concatenate(a)[:count], *parts)

    def sample(self, count: int) -> tuple[Any, Any]:
        """Returns inputs and labels from all over the data, at most `count` of each.

        The first ones need not be typical: rows may be in order of time or of class.
        """
        steps = self.steps
        every, each = max(steps // count, 1), -(-count // steps)
        rng = np.random.default_rng(0)
        parts = []
        for index, (x, y, _) in enumerate(self.batches()):
            if index % every == 0:
                size = len(keras.tree.flatten(x)[0])
                chosen = np.sort(rng.permutation(size)[:each])
                parts.append(keras.tree.map_structure(lambda a: a[chosen], (x, y)))  # noqa: B023
        return keras.tree.map_structure(lambda *a: np.concatenate(a)[:count], *parts)

    def for_fit(
        self, seed: int, teach: Callable[[Any], Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Returns what `fit` reads, and how: an epoch of batches, arrays in new order.

        Args:
            seed: of the order of arrays.
            teach: adds a teacher's outputs to a `tf.data.Dataset` of batches. Used for
                arrays alone: what others make may differ from epoch to epoch.
        """
        if isinstance(self.given, keras.utils.PyDataset):
            return self.given, {}
        if not self.in_memory:
            return self.given, {"shuffle": False}  # that is for the data set to do
        import tensorflow as tf

        every = tf.data.Dataset.from_tensor_slices(self.given)
        if teach is not None:
            every = teach(every.batch(_AT_ONCE)).unbatch()
        held = every.batch(self.count).get_single_element()

        def gathered(indices: Any) -> Any:
            return tf.nest.map_structure(lambda part: tf.gather(part, indices), held)

        # Shuffling numbers costs less than shuffling samples.
        order = tf.data.Dataset.range(self.count).shuffle(self.count, seed=seed)
        order = order.repeat().batch(self.batch_size)
        how = {"steps_per_epoch": self.steps, "shuffle": False}
        return order.map(gathered).prefetch(2), how

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all samples, labels and weights, in whichever order they come.

        Data that are made anew in each pass (random crops, noise) have none: of them
        it is a hash of the labels, or where these are made anew too, of their form.
        """
        labels, samples = _Sum(), _Sum()
        seen: set[bytes] = set()
        for x, *rest in self.batches():
            known = _hashes(rest)
            labels.add(known)
            both = _hashes(x, known)
            samples.add(both)
            if not self.in_memory:
                seen |= set(both) | set(known)
        if not self.in_memory:
            x, *rest = next(self.batches())
            known = _hashes(rest)
            if not seen.issuperset(known):
                form = keras.tree.map_structure(lambda a: (a.dtype, a.shape[1:]), x)
                return f"made anew {form}"
            if not seen.issuperset(_hashes(x, known)):
                return f"made anew {labels}"
        return str(samples)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return math.ceil(self.count / self.batch_size) if self.in_memory else self.count

    def _count(self, name: str) -> int:
        """Returns the number of samples of arrays, else of batches."""
        if self.in_memory:
            return len(keras.tree.flatten(self.given)[0])
        if isinstance(self.given, keras.utils.PyDataset):
            count = self.given.num_batches
        else:
            known = getattr(self.given, "cardinality", lambda: -2)
            count = int(known())  # -2 is unknown
            count = sum(1 for _ in self.given) if count < 0 else count
        if count == 0:
            raise InvalidArgumentError(
                f"`{name}` is empty.", received="no batches", expected="at least one"
            )
        return int(count)


class _Sum:
    """A hash of many hashes, the same in each order: their sum."""

    def __init__(self) -> None:
        self.total = self.count = 0

    def add(self, hashes: list[bytes]) -> None:
        self.total += sum(int.from_bytes(one, "little") for one in hashes)
        self.count += len(hashes)

    def __str__(self) -> str:
        return f"{self.count} {self.total % (1 << 128):032x}"


def _hashes(values: Any, before: list[bytes] | None = None) -> list[bytes]:
    """Returns a hash for each sample of a batch, of all its arrays and of `before`."""
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(values)]
    leaves = [leaf for leaf in leaves if leaf.ndim]
    count = len(leaves[0]) if leaves else len(before or ())
    digests = [
        hashlib.blake2b(before[i] if before else b"", digest_size=16)
        for i in range(count)
    ]
    for leaf in leaves:
        kind = f"{leaf.dtype}{leaf.shape[1:]}".encode()
        rows = np.ascontiguousarray(leaf)
        for digest, row in zip(digests, rows):
            digest.update(kind)
            digest.update(repr(row).encode() if leaf.dtype == object else row.tobytes())
    return [digest.digest() for digest in digests]


def _check_finite(name: str, inputs: Any) -> None:
    """Raises for inputs that are no finite numbers: integers cannot stand for them."""
    for array in keras.tree.flatten(inputs):
        broken = array.dtype.kind == "f" and int((~np.isfinite(array)).sum())
        if broken:
            raise InvalidArgumentError(
                f"The inputs of `{name}` are not finite.",
                received=f"{broken} NaN or infinite values in an array of shape "
                f"{array.shape}",
                expected="finite numbers",
            )


def _joined(name: str, batches: list[tuple]) -> tuple:
    """Returns batches of arrays as `(x, y[, w])`."""
    try:
        return keras.tree.map_structure(lambda *a: np.concatenate(a), *batches)
    except ValueError as error:
        raise InvalidArgumentError(
            f"The batches of `{name}` do not fit together.",
            received=one_line(error),
            expected="the same structure and shapes in all of them",
        ) from error


def _arrays(name: str, given: tuple) -> tuple:
    given = tuple(part for part in given if part is not None)
    given = keras.tree.map_structure(np.asarray, given)
    leaves = keras.tree.flatten(given)
    lengths = sorted({len(leaf) if leaf.ndim else 0 for leaf in leaves})
    if len(lengths) != 1 or 0 in lengths:
        raise InvalidArgumentError(
            f"The arrays of `{name}` do not fit together.",
            received=f"lengths {', '.join(map(str, lengths))}",
            expected="the same number of samples, at least one, in all of them",
        )
    return given


def check_scored(data: Data, score: Callable[[list[tuple]], Any]) -> None:
    """Raises where the model's loss or metrics cannot take the labels.

    Args:
        data: their first sample is tried.
        score: scores the model as it is on batches `(x, y, sample_weight)`.
    """
    inputs, labels = data.head(1)
    try:
        score([(inputs, labels, None)])
    except CompressionError:
        raise
    except Exception as error:  # Keras' while it traces, and TensorFlow's afterwards
        shapes = keras.tree.map_structure(lambda array: np.shape(array)[1:], labels)
        # TensorFlow's text is a trace through its graph.
        reason = f" ({one_line(error)})" if isinstance(error, ValueError) else ""
        raise InvalidArgumentError(
            f"The loss or the metrics of the model cannot take the {data.name} labels.",
            received=f"labels of shape {shapes} a sample{reason}",
            expected="labels as those that the model was trained with",
        ) from error
