"""What reports are about: models and artifacts, and the kernels in them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile


@dataclasses.dataclass(frozen=True)
class StoredKernel:
    """A kernel as it is stored.

    Attributes:
        name: its name.
        values: floats, or the distance of integers from their zero point.
        bits: bits an entry is stored in.
    """

    name: str
    values: np.ndarray
    bits: int


def checked(subject: Any) -> keras.Model | Artifact:
    """Returns a built model or an artifact, which may be given by its path.

    Raises:
        InvalidArgumentError: if it is neither.
        ArtifactError: if an artifact is damaged.
    """
    if isinstance(subject, keras.Model):
        if not subject.built:
            raise InvalidArgumentError(
                f"Model {subject.name!r} is not built: it has no weights to report on.",
                received=f"an un-built {type(subject).__name__}",
                expected="a built model",
                fix="call it once on data",
            )
        return subject
    if isinstance(subject, Artifact):
        return subject
    if isinstance(subject, str | os.PathLike):
        return Artifact.read(subject)
    raise InvalidArgumentError(
        "Only models and artifacts can be measured.",
        received=type(subject).__name__,
        expected="a keras.Model, an Artifact or the path of one",
    )


def kernels(subject: keras.Model | Artifact) -> Iterator[StoredKernel]:
    """Yields the kernels of a model or artifact; none of a format that hides them.

    Kernels are the weights with two or more axes and more than two entries: a
    quantization range, two numbers, is no kernel.
    """
    if isinstance(subject, keras.Model):
        yield from _of_model(subject)
    elif subject.format == "tflite":
        yield from _of_tflite(subject)
    elif subject.format == "saved_model":
        yield from _of_saved_model(subject)


def _is_kernel(shape: Any) -> bool:
    return len(shape) >= 2 and math.prod(shape) > 2


def _of_model(model: keras.Model) -> Iterator[StoredKernel]:
    for weight in model.weights:
        if _is_kernel(weight.shape) and "float" in str(weight.dtype):
            values = weight.numpy()
            yield StoredKernel(weight.path, values, 8 * values.itemsize)


def _of_tflite(artifact: Artifact) -> Iterator[StoredKernel]:
    for tensor, values in TFLiteFile.open(artifact.path).weights():
        # Weights are symmetric in practice, so the channels share one zero point.
        zero = tensor.zero_points[0] if tensor.zero_points else 0
        values = values.reshape(tuple(size or 1 for size in tensor.info.shape))
        bits = 4 if tensor.info.dtype == "int4" else 8 * values.itemsize
        yield StoredKernel(tensor.info.name, values - zero if zero else values, bits)


def _of_saved_model(artifact: Artifact) -> Iterator[StoredKernel]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(artifact.path / "variables" / "variables"))
    dtypes, names = reader.get_variable_to_dtype_map(), _names_of_variables(reader)
    keys = {name: key for key, name in names.items()}
    for key, shape in sorted(reader.get_variable_to_shape_map().items()):
        if not _is_kernel(shape):
            continue
        name = names.get(key, key)
        # What `exporters/compact.py` stores in place of a weight.
        weight, _, part = name.rpartition("/")
        if dtypes[key].is_floating:
            yield StoredKernel(name, reader.get_tensor(key), 8 * dtypes[key].size)
        elif part == "integers":
            yield StoredKernel(weight, reader.get_tensor(key), 8)
        elif part in ("codes", "pairs") and f"{weight}/values" in keys:
            codes = reader.get_tensor(key)
            if part == "pairs":
                codes = np.stack([codes & 15, codes >> 4], axis=-1)
            values = reader.get_tensor(keys[f"{weight}/values"])[codes]
            yield StoredKernel(weight, values, 8 if part == "codes" else 4)


def _names_of_variables(reader: Any) -> dict[str, str]:
    """Returns what Keras calls the variables of a checkpoint, by their keys in it."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    key = "_CHECKPOINTABLE_OBJECT_GRAPH"
    if not reader.has_tensor(key):
        return {}
    graph = TrackableObjectGraph.FromString(reader.get_tensor(key))
    stored = [one for node in graph.nodes for one in node.attributes if one.full_name]
    return {one.checkpoint_key: one.full_name for one in stored}
