"""Sizes, zeros and multiply-accumulates of models and artifacts."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import (
    ArtifactError,
    CompressionError,
    CompressionWarning,
)
from tfcompress.exporters.artifact import Artifact, gzip_bytes
from tfcompress.exporters.tflite.flatbuffer import Operator, TFLiteFile
from tfcompress.layers import macs as count_macs
from tfcompress.reporting.subjects import kernels

# Operators that multiply and whose cost is not fixed by the shapes in the file.
_OPEN_ENDED = {
    *("WHILE", "IF", "CALL", "CALL_ONCE", "CUSTOM", "DELEGATE", "RFFT2D", "SVDF"),
    *("LSTM", "RNN", "EMBEDDING_LOOKUP_SPARSE"),
    *("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN"),
    *("BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN"),
}


def weight_bytes(model: keras.Model) -> tuple[int, int]:
    """Returns the bytes of a model's weights, raw and after `gzip -9`."""
    values = [weight.numpy() for weight in model.weights]
    raw = b"".join(np.ascontiguousarray(value).tobytes() for value in values)
    return len(raw), gzip_bytes(raw)


@dataclasses.dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer, as they are stored.

    Attributes:
        name: the tensor's name.
        count: how many weights.
        bits: bits that each is stored in.
        sparsity: share of zeros, from 0 to 1.
    """

    name: str
    count: int
    bits: int
    sparsity: float


def layer_weights(subject: keras.Model | Artifact) -> tuple[LayerWeights, ...]:
    """Returns what can be seen of the kernels of a model or artifact.

    In a .tflite file a weight is zero if its integer is the zero point.
    """
    return tuple(
        LayerWeights(
            kernel.name,
            kernel.values.size,
            kernel.bits,
            float(np.mean(kernel.values == 0)),
        )
        for kernel in kernels(subject)
    )


def sparsity(layers: Sequence[LayerWeights]) -> float | None:
    """Returns the share of zeros among the weights of all layers; None without any."""
    total = sum(layer.count for layer in layers)
    zeros = sum(round(layer.sparsity * layer.count) for layer in layers)
    return zeros / total if total else None


def macs(subject: keras.Model | Artifact) -> int | None:
    """Returns the multiply-accumulates of one sample; None if they are unknown."""
    if isinstance(subject, Artifact):
        if subject.format != "tflite":
            return None
        return _tflite_macs(TFLiteFile.open(subject.path))
    try:
        with warnings.catch_warnings():
            # A report is no place to say again which layers have no rule.
            warnings.simplefilter("ignore", CompressionWarning)
            return count_macs(subject)
    except CompressionError:
        # Subclassed models have no graph to count in, and some work is not known.
        return None


def _tflite_macs(file: TFLiteFile) -> int | None:
    names = {op.name for op in file.operators}
    if names & _OPEN_ENDED or any(n.startswith(("Flex", "STABLEHLO")) for n in names):
        return None
    first = file.signatures[0].graph
    shape = file.inputs[0].info.shape if file.inputs else ()
    batch = (shape or (1,))[0] or 1
    return sum(_operator_macs(op) for op in file.graphs[first]) // batch


def _operator_macs(op: Operator) -> int:
    if op.name not in _MACS:
        return 0
    inputs, outputs = (
        [tuple(size or 1 for size in t.info.shape) for t in tensors]
        for tensors in (op.inputs, op.outputs)
    )
    try:
        return _MACS[op.name](inputs, outputs[0])
    except IndexError as error:
        raise ArtifactError(
            "The .tflite file is damaged.",
            received=f"{op.name} with inputs {inputs} and outputs {outputs}",
            expected="the tensors that this operator has",
            fix="export the model again, or copy the file again",
        ) from error


# Kernels are stored output channel first; a transposed conv lists its data third.
_MACS: dict[str, Any] = {
    "CONV_2D": lambda i, o: math.prod(o) * math.prod(i[1][1:]),
    "CONV_3D_TRANSPOSE": lambda i, o: math.prod(i[2]) * math.prod(i[1][:4]),
    "CONV_3D": lambda i, o: math.prod(o) * math.prod(i[1][:-1]),
    "DEPTHWISE_CONV_2D": lambda i, o: math.prod(o) * math.prod(i[1][1:3]),
    "TRANSPOSE_CONV": lambda i, o: math.prod(i[2]) * math.prod(i[1][:3]),
    "FULLY_CONNECTED": lambda i, o: math.prod(o) * i[1][-1],
    "BATCH_MATMUL": lambda i, o: math.prod(o) * i[0][-1],
}
