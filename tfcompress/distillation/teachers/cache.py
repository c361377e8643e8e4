"""A teacher that runs once: its outputs, kept on disk, travel with the data.

This is the one module of distillation that needs TensorFlow itself: Keras has no
public equivalent of `tf.data` pipelines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress.core.arguments import one_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.features import Recorder
from tfcompress.distillation.teachers.cache_files import (
    CacheFiles,
    checksum_of_input,
    fingerprint,
)
from tfcompress.distillation.validation import check_is_model, check_teacher_is_finite

# The fingerprint of the teacher is part of a name, which no transformation of the data
# set can lose, and costs no batch anything.
INPUTS, OUTPUTS, LAYERS = "inputs", "teacher_outputs", "teacher_layers_of_"
_COMMIT_EVERY = 50  # batches


class CachedAnswers(NamedTuple):
    """What a teacher said about a batch, and which teacher it was."""

    outputs: Any
    features: dict[str, Any]
    fingerprint: str


def cache_teacher(
    teacher: Any,
    dataset: Any,
    path: str | os.PathLike,
    layers: Sequence[str] = (),
    dtype: str = "float16",
    teacher_preprocessing: Callable | None = None,
    verbose: int = 0,
) -> Any:
    """Runs a teacher over a data set once and returns the data with its outputs.

    Use it where the teacher costs more than the student, which is nearly always:
    the epochs after this one cost what training the student alone costs. Call it
    again with the same arguments and the files are read; a run that was killed is
    resumed. Fit the distiller on what it returns:

    ```python
    train = cache_teacher(teacher, train.batch(128), "cache/train")
    distiller.fit(train.shuffle(100).repeat(), ...)
    ```

    Shuffle, repeat and augment *after* this call: an output belongs to its sample,
    and batches that come in another order or with other values than when the
    teacher saw them are refused. (Seeded transformations that give the same in
    each iteration, such as `shuffle(..., reshuffle_each_iteration=False)`, may
    come before. Augmenting afterwards means that student and teacher see
    different versions of a sample; where that matters, use a live teacher.)

    Args:
        teacher: a trained model, as for `Distiller`.
        dataset: a finite, batched `tf.data.Dataset` of `x`, `(x, y)` or
            `(x, y, sample_weight)`.
        path: directory for the files. About `samples * outputs * 2` bytes.
        layers: names of teacher layers whose features the losses need too.
        dtype: "float16" or "float32", how outputs are stored.
        teacher_preprocessing: as for `Distiller`.
        verbose: 1 shows progress.

    Returns:
        A `tf.data.Dataset` like `dataset`, whose `x` carries the outputs; only a
        `tfcompress.Distiller` can be fitted on it.

    Raises:
        InvalidArgumentError: for a data set that is infinite or gives something
            else in each iteration, for a teacher with NaN weights, for outputs
            that do not fit into `dtype`.
        ArtifactError: for files of another teacher, damaged or cut short files,
            and a full disk.

    Example:

    >>> import tempfile
    >>> import tensorflow as tf
    >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> data = tf.data.Dataset.from_tensor_slices(np.eye(4, dtype="float32")).batch(2)
    >>> train = cache_teacher(teacher, data, tempfile.mkdtemp() + "/cache")
    >>> len(list(train))
    2
    """
    import tensorflow as tf

    one_of(dtype, "Wrong dtype.", ("float16", "float32"))
    check_is_model(teacher)
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise InvalidArgumentError(
            "`layers` names layers of the teacher.",
            received=repr(layers),
            expected="a list of names",
        )
    beginning = _check_dataset(dataset)
    if teacher_preprocessing is None:
        _check_batched(dataset, teacher)
    check_teacher_is_finite(teacher)
    files = CacheFiles(
        path,
        {
            "teacher": teacher_fingerprint(teacher, teacher_preprocessing),
            "layers": list(layers),
            "dtype": dtype,
        },
    )
    kept = [checksum for _, checksum in files.batches[: len(beginning)]]
    if kept and kept != beginning[: len(kept)]:
        raise InvalidArgumentError(
            "This teacher cache was made of another data set.",
            received=f"first batches that are not those of {files.path}",
            expected="the same batches in the same order",
            fix="choose another path, or delete the cache to run the teacher again",
        )
    recorder = Recorder(teacher, layers)

    ask = tf.function(
        lambda x: ask_teacher(recorder, teacher_preprocessing, x),
        input_signature=[_inputs(dataset.element_spec)],
    )
    if not files.complete:
        with files.writing():
            if not files.complete:  # by another process, meanwhile
                _fill(files, dataset, ask, dtype, verbose)
    structure = tf.nest.map_structure(
        lambda t: tf.TensorSpec((None, *t.shape[1:]), tf.float32),
        ask.get_concrete_function().structured_outputs,
    )
    return _attach(files, dataset, structure, teacher_fingerprint(teacher))


def ask_teacher(recorder: Recorder, preprocess: Any, x: Any) -> tuple[Any, dict]:
    """Returns the teacher's outputs and features, cut off from any gradient."""
    if isinstance(preprocess, keras.Layer):
        x = preprocess(x, training=False)
    elif preprocess is not None:
        x = preprocess(x)
    answers = recorder.run(x, training=False)
    return keras.tree.map_structure(keras.ops.stop_gradient, answers)


def split_cached(x: Any) -> tuple[Any, CachedAnswers | None]:
    """Returns the student's input, and what the teacher said if it is there."""
    if isinstance(x, dict) and len(x) == 3 and {INPUTS, OUTPUTS} <= set(x):
        (key,) = set(x) - {INPUTS, OUTPUTS}
        if isinstance(key, str) and key.startswith(LAYERS):
            fingerprint = key.removeprefix(LAYERS)
            return x[INPUTS], CachedAnswers(x[OUTPUTS], x[key], fingerprint)
    return x, None


def on_host(function: Callable, arguments: list, spec: list) -> list:
    """Calls a NumPy function of arrays from within a graph."""
    import tensorflow as tf

    results = tf.numpy_function(function, arguments, [s.dtype for s in spec])
    if not isinstance(results, list | tuple):  # a single one, called eagerly
        results = [results]
    for result, s in zip(results, spec):
        result.set_shape(s.shape)
    return list(results)


def load_interpreter(content: bytes) -> Any:
    """Returns a LiteRT interpreter: the one of its own package, or TensorFlow's."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter
    return Interpreter(model_content=content)


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple) else batch


def _check_dataset(dataset: Any) -> list[int]:
    """Returns the checksums of the first batches, if the data set can be cached."""
    import tensorflow as tf

    if not isinstance(dataset, tf.data.Dataset):
        raise InvalidArgumentError(
            "Only a tf.data.Dataset can be cached.",
            received=type(dataset).__name__,
            expected="a batched tf.data.Dataset",
            fix="tf.data.Dataset.from_tensor_slices((x, y)).batch(128)",
        )
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise InvalidArgumentError(
            "The data set never ends, so its teacher could never be cached.",
            received="an infinite data set",
            expected="one pass over the data",
            fix="call repeat() on what cache_teacher returns",
        )
    # Twice the beginning: shuffling and random augmentation give it away.
    checksums = [
        [_checksum(_inputs(batch)) for batch in dataset.take(2)] for _ in range(2)
    ]
    if not checksums[0]:
        raise InvalidArgumentError("The data set is empty.", expected="some batches")
    if checksums[0] != checksums[1]:
        _refuse_order("different batches in two iterations")
    return checksums[0]


def _check_batched(dataset: Any, teacher: Any) -> None:
    """Raises if samples have fewer axes than the teacher's inputs."""
    ports = getattr(teacher, "inputs", None) or []
    shapes = [t.shape for t in keras.tree.flatten(_inputs(dataset.element_spec))]
    for port, shape in zip(ports, shapes):
        if shape.rank is not None and shape.rank == len(port.shape) - 1:
            raise InvalidArgumentError(
                "The data set gives single samples, and the teacher takes batches.",
                received=f"{tuple(shape)} for input '{port.name}'",
                expected=f"{tuple(port.shape)}",
                fix="call batch(128) on the data set",
            )


def _refuse_order(received: str) -> None:
    raise InvalidArgumentError(
        "The data set is shuffled or augmented at random before the teacher's outputs "
        "are attached, so they would belong to other samples.",
        received=received,
        expected="the same batches in the same order in each iteration",
        fix="shuffle and augment what cache_teacher returns, or seed these steps so "
        "that each iteration repeats them (reshuffle_each_iteration=False)",
    )


def _checksum(x: Any) -> int:
    return checksum_of_input([np.asarray(array) for array in keras.tree.flatten(x)])


def teacher_fingerprint(teacher: Any, preprocessing: Any = None) -> str:
    """Returns a short text that tells teachers, with their preprocessing, apart."""
    extra = ""
    if isinstance(preprocessing, keras.Layer):
        extra = str(sorted(preprocessing.get_config().items(), key=str))
    elif preprocessing is not None:
        extra = getattr(preprocessing, "__qualname__", type(preprocessing).__name__)
    # Counters and seeds change while a teacher runs; what it knows does not.
    weights = [
        keras.ops.convert_to_numpy(v)
        for v in teacher.weights
        if "float" in keras.backend.standardize_dtype(v.dtype)
    ]
    own = getattr(teacher, "fingerprint", "")
    return fingerprint(type(teacher).__name__, extra, own, *weights)


def _fill(
    files: CacheFiles, dataset: Any, ask: Callable, dtype: str, verbose: int
) -> None:
    done = len(files.batches)
    total = int(dataset.cardinality())
    progress = keras.utils.Progbar(total if total > 0 else None, verbose=verbose)
    for number, batch in enumerate(dataset.skip(done), done + 1):
        x = _inputs(batch)
        arrays = []
        for tensor in keras.tree.flatten(ask(x)):
            exact = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
            # What does not fit becomes infinite, and is found just below.
            with np.errstate(over="ignore"):
                array = exact.astype(dtype)
            if not np.isfinite(array).all():
                raise InvalidArgumentError(
                    f"The teacher's outputs do not fit into {dtype}.",
                    received=f"values up to {np.abs(exact).max():g} in batch {number}",
                    expected=f"finite values up to {np.finfo(dtype).max:g}",
                    fix="pass dtype='float32'"
                    if np.isfinite(exact).all()
                    else "check the data: the teacher answers with NaN or infinity",
                )
            arrays.append(array)
        files.append(arrays, _checksum(x))
        if number % _COMMIT_EVERY == 0:
            files.commit()
        progress.update(number)
    files.commit(complete=True)


def _attach(files: CacheFiles, dataset: Any, structure: Any, teacher: str) -> Any:
    import tensorflow as tf

    arrays = files.open_arrays()
    starts = np.cumsum([0, *(size for size, _ in files.batches)])
    checksums = [checksum for _, checksum in files.batches]
    spec = keras.tree.flatten(structure)

    def read(number: Any, *inputs: np.ndarray) -> list[np.ndarray]:
        number = int(number)
        known = number < len(checksums)
        if not known or checksum_of_input(list(inputs)) != checksums[number]:
            _refuse_order(
                f"batch {number} is not the one the teacher saw (or the data set is "
                f"another one than that of {files.path})"
            )
        rows = slice(starts[number], starts[number + 1])
        return [array[rows].astype("float32") for array in arrays]

    def attach(number: Any, batch: Any) -> Any:
        x, *rest = batch if isinstance(batch, tuple) else (batch,)
        flat = on_host(read, [number, *tf.nest.flatten(x)], spec)
        outputs, features = tf.nest.pack_sequence_as(structure, flat)
        return ({INPUTS: x, OUTPUTS: outputs, LAYERS + teacher: features}, *rest)

    # One thread of its own is enough: Python could not use two.
    return dataset.enumerate().map(attach).prefetch(2)
