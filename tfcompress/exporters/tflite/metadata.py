"""Metadata in a .tflite file: what tools on phones read about inputs, outputs, labels.

Source: https://www.tensorflow.org/lite/models/convert/metadata and the official schema,
metadata_schema.fbs of tflite-support (identifier M001). Numbers of fields are those of
the schema, in its order.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np

from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.exporters.tensors import TensorInfo
from tfcompress.exporters.tflite.assembling import put_together
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile, read_schema
from tfcompress.exporters.tflite.rewriting import take_apart

_BUFFER = "TFLITE_METADATA"
_LABELS = "labels.txt"
_LARGEST_LABELS = 1 << 24  # bytes
_AXIS_LABELS, _NORMALIZATION, _FEATURE, _IMAGE = 2, 1, 1, 2
_RGB, _GRAYSCALE = 1, 2
_PARSER = "1.0.0"


@dataclass(frozen=True)
class ModelDescription:
    """What a .tflite file says about itself.

    Use it as the option `description` of the format "tflite"; ML Kit, MediaPipe Tasks
    and Android Studio read it from the file.

    Args:
        name: the name of the model.
        text: what it does.
        author: who made it.
        license: its licence.
        labels: names of the classes, in the order of the output.
        mean: subtracted from pixels (0 to 255) of an image input.
        std: divided by afterwards: `(pixel - mean) / std`. 0 and 255 for a model of
            [0, 1], 127.5 and 127.5 for one of [-1, 1].
        tensors: what inputs and outputs are, by name.

    Example:

    >>> ModelDescription("clothes", labels=("coat", "bag"), std=255.0).mean
    0.0
    """

    name: str
    text: str = ""
    author: str = ""
    license: str = ""
    labels: tuple[str, ...] = ()
    mean: float = 0.0
    std: float | None = None
    tensors: Mapping[str, str] = field(default_factory=dict)


def with_metadata(content: bytes, description: ModelDescription) -> bytes:
    """Returns the .tflite file with its description, and the labels appended.

    Raises:
        InvalidArgumentError: if labels, image values or names do not fit the model.
    """
    file = TFLiteFile(content)
    inputs = [tensor.info for tensor in file.inputs]
    outputs = [tensor.info for tensor in file.outputs]
    _check(description, inputs, outputs)
    model = take_apart(content)
    schema = read_schema()
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(_metadata(description, inputs, outputs), np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = _BUFFER, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return with_labels(put_together(model), description.labels)


def with_labels(content: bytes, labels: Sequence[str]) -> bytes:
    """Returns the .tflite file with labels appended, if there are any."""
    if not labels:
        return content
    stream = io.BytesIO(content)
    # Not compressed, so that it can be read in place; without a time of its own.
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        info = zipfile.ZipInfo(_LABELS, (1980, 1, 1, 0, 0, 0))
        archive.writestr(info, "\n".join(labels) + "\n")
    return stream.getvalue()


def read_labels(content: bytes) -> tuple[str, ...]:
    """Returns the labels that are appended to a .tflite file, if there are any.

    Raises:
        ArtifactError: if they are damaged.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return ()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if _LABELS not in archive.namelist():
                return ()
            with archive.open(_LABELS) as file:
                # Not `archive.read`: what is packed may be as large as anything.
                text = file.read(_LARGEST_LABELS + 1)
        if len(text) > _LARGEST_LABELS:
            raise ValueError(f"more than {_LARGEST_LABELS:,} bytes")
        return tuple(text.decode().split("\n")[:-1])
    except Exception as error:  # damage shows as any exception of the reader
        raise ArtifactError(
            "The labels in the .tflite file are damaged.",
            received=f"{type(error).__name__}: {error}",
            expected=f"a stored file {_LABELS}, one label to a line",
            fix="export the model again, or copy the file again",
        ) from error


def _check(
    description: ModelDescription,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> None:
    labels = description.labels
    if labels and (len(outputs) != 1 or outputs[0].shape[-1] != len(labels)):
        raise InvalidArgumentError(
            "The labels do not fit the model's output.",
            received=f"{len(labels)} labels, outputs {[o.shape for o in outputs]}",
            expected="one output with a score for each label",
        )
    if any("\n" in label for label in labels):
        raise InvalidArgumentError(
            "A label has a line break.",
            received=repr(next(label for label in labels if "\n" in label)),
            expected="labels of one line",
        )
    if description.std is not None and (
        description.std <= 0 or not any(map(_is_image, inputs))
    ):
        raise InvalidArgumentError(
            "`mean` and `std` are for images.",
            received=f"std={description.std}, inputs {[i.shape for i in inputs]}",
            expected="a positive std and an input (n, height, width, 1 or 3)",
        )
    known = {info.name for info in (*inputs, *outputs)}
    unknown = sorted(set(description.tensors) - known)
    if unknown:
        raise InvalidArgumentError(
            "The model has no such inputs or outputs.",
            received=", ".join(unknown),
            expected=f"names out of {sorted(known)}",
        )


def _is_image(info: TensorInfo) -> bool:
    return len(info.shape) == 4 and info.shape[3] in (1, 3)


def _metadata(
    description: ModelDescription,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> bytes:
    builder = flatbuffers.Builder(1024)
    tables = _Tables(builder)

    def tensor(info: TensorInfo, is_output: bool) -> int:
        image = _is_image(info) and not is_output and description.std is not None
        kind = _IMAGE if image else _FEATURE
        colour = _GRAYSCALE if info.shape and info.shape[-1] == 1 else _RGB
        properties = tables.make({0: _byte(colour)} if image else {})
        fields = {
            0: tables.text(info.name),
            1: tables.text(description.tensors.get(info.name, "")),
            3: _offset(tables.make({0: _byte(kind), 1: _offset(properties)})),
        }
        if image:
            assert description.std is not None
            mean, std = tables.floats(description.mean), tables.floats(description.std)
            options = tables.make({0: mean, 1: std})
            unit = tables.make({0: _byte(_NORMALIZATION), 1: _offset(options)})
            fields[4] = tables.vector([unit])
        if is_output and description.labels:
            labels = {
                0: tables.text(_LABELS),
                1: tables.text("Names of the classes."),
                2: _byte(_AXIS_LABELS),
            }
            fields[6] = tables.vector([tables.make(labels)])
        return tables.make(fields)

    given = tables.vector([tensor(info, False) for info in inputs])
    made = tables.vector([tensor(info, True) for info in outputs])
    graph = tables.vector([tables.make({2: given, 3: made})])
    root = tables.make(
        {
            0: tables.text(description.name),
            1: tables.text(description.text),
            3: graph,
            4: tables.text(description.author),
            5: tables.text(description.license),
            7: tables.text(_PARSER),
        }
    )
    builder.Finish(root, b"M001")
    return bytes(builder.Output())


_Field = Callable[[Any, int], None]


def _byte(value: int) -> _Field:
    return lambda builder, slot: builder.PrependInt8Slot(slot, value, 0)


def _offset(value: int) -> _Field:
    return lambda builder, slot: builder.PrependUOffsetTRelativeSlot(slot, value, 0)


class _Tables:
    """Tables of a FlatBuffer from fields by number; what they hold is made first."""

    def __init__(self, builder: Any):
        self._builder = builder

    def make(self, fields: Mapping[int, _Field]) -> int:
        self._builder.StartObject(max(fields, default=-1) + 1)
        for slot, write in fields.items():
            write(self._builder, slot)
        return self._builder.EndObject()

    def text(self, value: str) -> _Field:
        return _offset(self._builder.CreateString(value))

    def floats(self, value: float) -> _Field:
        return _offset(self._builder.CreateNumpyVector(np.array([value], "float32")))

    def vector(self, tables: Sequence[int]) -> _Field:
        self._builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            self._builder.PrependUOffsetTRelative(table)
        return _offset(self._builder.EndVector())
