"""Where the arrays are in the files of artifacts: .tflite, .keras, SavedModel."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.child.probing import probe
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.packing.blocks import Span
from tfcompress.packing.checkpoint_index import entries_of

# Smaller arrays gain nothing from a model of their own.
_SMALLEST = 64


def find_spans(path: Path) -> list[Span]:
    """Returns the arrays in a file, in order and apart; none if it is no known file."""
    with path.open("rb") as file:
        head = file.read(8)
    try:
        if head[4:8] == b"TFL3":
            found = _tflite(path)
        elif head[:4] == b"PK\x03\x04":
            found = _keras(path)
        elif ".data-" in path.name:
            found = _checkpoint(path)
        else:
            found = []
    except Exception:
        # Damage shows as any exception of the readers. The bytes are packed as bytes.
        return []
    size = path.stat().st_size
    apart: list[Span] = []
    for span in sorted(found, key=lambda span: span.start):
        inside = span.start >= 0 and span.end <= size
        if (
            inside
            and span.size >= _SMALLEST
            and (not apart or span.start >= apart[-1].end)
        ):
            apart.append(span)
    return apart


def _tflite(path: Path) -> list[Span]:
    content = path.read_bytes()
    start = np.frombuffer(content, "u1").__array_interface__["data"][0]
    found = []
    file = TFLiteFile(content, path)
    for tensor in (t for tensors in file.tensors for t in tensors):
        if not tensor.constant:
            continue
        view = np.frombuffer(tensor.constant, "u1")
        width = _width(tensor.info.dtype)
        shape = tuple(size or 0 for size in tensor.info.shape)
        if width and math.prod(shape) * width == len(view):
            # Kernels are stored output channel first.
            rows = shape[0] if len(shape) > 1 else 1
            place = view.__array_interface__["data"][0] - start
            found.append(Span(place, width, rows, math.prod(shape) // max(rows, 1)))
    return found


def _keras(path: Path) -> list[Span]:
    import h5py

    probe(path, "HDF5", job="read_hdf5")  # which may read a damaged file for ever
    found = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                continue
            if not entry.filename.endswith(".h5"):
                continue
            raw.seek(entry.header_offset)
            name, extra = struct.unpack("<26x2H", raw.read(30))
            start = entry.header_offset + 30 + name + extra
            with archive.open(entry) as inner, h5py.File(inner, "r") as store:
                found += _datasets(store, start)
    return found


def _datasets(store: Any, start: int) -> list[Span]:
    found: list[Span] = []

    def visit(name: str, dataset: Any) -> None:
        place = getattr(getattr(dataset, "id", None), "get_offset", lambda: None)()
        if place is not None and dataset.size:
            found.append(_span(start + place, str(dataset.dtype), dataset.shape))

    store.visititems(visit)
    return [span for span in found if span.width]


def _checkpoint(path: Path) -> list[Span]:
    """Returns the arrays of a checkpoint shard, whose index says where each begins."""
    import tensorflow as tf
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto

    prefix, shard = str(path).rsplit(".data-", maxsplit=1)
    found = []
    for entry in map(BundleEntryProto.FromString, entries_of(Path(f"{prefix}.index"))):
        dtype = tf.dtypes.as_dtype(entry.dtype).name
        shape = tuple(axis.size for axis in entry.shape.dim)
        whole = entry.size == math.prod(shape) * _width(dtype)
        if entry.shard_id == int(shard.split("-")[0]) and entry.size and whole:
            found.append(_span(entry.offset, dtype, shape))
    return found


def _span(start: int, dtype: str, shape: tuple) -> Span:
    rows = math.prod(shape[:-1]) if len(shape) > 1 else 1
    return Span(start, _width(dtype), rows, shape[-1] if shape else 1)


def _width(dtype: str) -> int:
    widths = {"8": 1, "16": 2, "32": 4, "64": 8}
    kind = dtype.rstrip("0123456789")
    known = kind in ("int", "uint", "float", "bfloat")
    return widths.get(dtype[len(kind) :], 0) if known else 0
