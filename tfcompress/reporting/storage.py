"""What weights take to store, layer by layer: bytes, entropy, and what is packed."""

from __future__ import annotations

import dataclasses
import io
import math
import zlib

import keras
import numpy as np

from tfcompress.exporters.artifact import Artifact
from tfcompress.packing import blocks, pack
from tfcompress.reporting.subjects import StoredKernel, checked, kernels


@dataclasses.dataclass(frozen=True)
class LayerStorage:
    """One array of weights.

    Attributes:
        name: the tensor's name.
        shape: its shape.
        bits: bits an entry is stored in.
        sparsity: share of zeros, in [0, 1].
        values: how many distinct values there are that are not zero.
        value_bits: entropy of those values, in bits per weight that is not zero.
        position_bits: entropy of where they are, in bits per weight that is not zero.
        entropy_size: bytes of both together: no code that knows only how often each
            value occurs takes less.
        packed_size: bytes that `pack` makes of it.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    sparsity: float
    values: int
    value_bits: float
    position_bits: float
    entropy_size: int
    packed_size: int

    @property
    def count(self) -> int:
        """How many weights."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Storage:
    """What a model or artifact takes to store; `print` gives a table of its layers.

    Attributes:
        layers: its arrays of weights.
        size: bytes, all files together.
        zip_size: bytes in a zip archive such as an APK (deflate, without the names).
        entropy_size: entropy of the arrays, and everything else as it is packed.
        packed_size: bytes that `pack` makes of it.
    """

    layers: tuple[LayerStorage, ...]
    size: int
    zip_size: int
    entropy_size: int
    packed_size: int

    def to_markdown(self) -> str:
        """Returns the table of Deep Compression: a line per layer, and their sum."""
        head = (
            "layer | weights | kept | values | bits a value | bits a position "
            "| bits a weight | entropy bytes | packed bytes"
        )
        lines = [f"| {head} |", "| --- |" + " ---: |" * 8]
        for layer in self.layers:
            bits = 8 * layer.packed_size / layer.count
            lines.append(
                f"| {layer.name} | {layer.count:,} | {1 - layer.sparsity:.1%} "
                f"| {layer.values} | {layer.value_bits:.2f} "
                f"| {layer.position_bits:.2f} | {bits:.3f} "
                f"| {layer.entropy_size:,} | {layer.packed_size:,} |"
            )
        count = sum(layer.count for layer in self.layers)
        kept = sum(layer.count * (1 - layer.sparsity) for layer in self.layers)
        lines.append(
            f"| all of {self.size:,} bytes | {count:,} | {kept / max(count, 1):.1%} "
            f"| | | | {8 * self.packed_size / max(count, 1):.3f} "
            f"| {self.entropy_size:,} | {self.packed_size:,} |"
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_markdown()


def storage(subject: keras.Model | Artifact) -> Storage:
    """Measures what a model or an artifact takes to store, layer by layer.

    When to use: to see what is left to gain. Where packed bytes are near the entropy,
    only fewer weights, fewer values or other values make the file smaller.

    Source: with a share `d` of weights that are not zero and `H` for Shannon's entropy,
    a weight takes `H(d, 1 - d) + d * H(values)` bits.

    Args:
        subject: an `Artifact`, the path of one, or a Keras model (its weights alone).

    Returns:
        A `Storage`.

    Raises:
        InvalidArgumentError: if `subject` is neither.
        ArtifactError: if an artifact is damaged.

    Example:

    >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(32)])
    >>> _ = model.layers[0].kernel.assign(np.eye(16, 32))
    >>> [layer] = storage(model).layers
    >>> layer.sparsity, layer.values, round(layer.position_bits, 2), layer.entropy_size
    (0.96875, 1, 6.42, 13)
    """
    subject = checked(subject)
    if isinstance(subject, keras.Model):
        weights = [np.ascontiguousarray(weight.numpy()) for weight in subject.weights]
        contents = [b"".join(weight.tobytes() for weight in weights)]
        packed = sum(len(_packed(weight)) for weight in weights)
    else:
        contents = [file.read_bytes() for file in subject.files]
        packed = pack(subject, io.BytesIO()).size
    size = sum(len(content) for content in contents)
    zipped = sum(len(zlib.compress(content, 9)) for content in contents)
    layers = tuple(_layer(kernel) for kernel in kernels(subject))
    others = max(packed - sum(layer.packed_size for layer in layers), 0)
    entropy = sum(layer.entropy_size for layer in layers) + others
    return Storage(layers, size, zipped, entropy, packed)


def _layer(kernel: StoredKernel) -> LayerStorage:
    flat = kernel.values.reshape(-1)
    zeros = int(np.count_nonzero(flat == 0))
    kept = flat.size - zeros
    _, counts = np.unique(flat[flat != 0], return_counts=True)
    values = _entropy(counts)
    positions = _entropy(np.array([zeros, kept]))
    return LayerStorage(
        name=kernel.name,
        shape=tuple(kernel.values.shape),
        bits=kernel.bits,
        sparsity=zeros / flat.size,
        values=len(counts),
        value_bits=values / max(kept, 1),
        position_bits=positions / max(kept, 1),
        entropy_size=math.ceil((values + positions) / 8),
        packed_size=len(_packed(kernel.values)),
    )


def _packed(array: np.ndarray) -> bytes:
    data = np.ascontiguousarray(array).tobytes()
    rows = math.prod(array.shape[:-1])
    span = blocks.Span(0, array.itemsize, rows, len(data) // array.itemsize // rows)
    return blocks.encode(data, [span])


def _entropy(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) if len(counts) else 0
