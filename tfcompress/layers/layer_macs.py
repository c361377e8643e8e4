"""MACs of layers: `(layer, input shapes, output shape)` of one sample to a number.

What is counted are products that one operation multiplies and sums: matrix products
and convolutions. A transposed convolution counts as many as the convolution that it is
the transpose of, also those whose result is cropped away. Elementwise products, sums,
means, lookups and one-hot encodings count as none.
"""

from __future__ import annotations

import math
from typing import Any

Shape = tuple[int, ...]


def no_products(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Layers that multiply and sum nothing."""
    return 0


def _spatial(layer: Any, shape: Shape) -> Shape:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return shape[:-1] if last else shape[1:]


def _size(variable: Any) -> int:
    return math.prod(variable.shape)


def _adapter(layer: Any, kernel: str = "kernel") -> int:
    """Products of the two factors that LoRA adds to a kernel, at every call."""
    if not getattr(layer, "lora_enabled", False):
        return 0
    first, second = (getattr(layer, f"lora_{kernel}_{part}") for part in "ab")
    return _size(first) * second.shape[-1]


def convolution(layer: Any, inputs: list[Shape], output: Shape) -> int:
    positions = math.prod(_spatial(layer, output))
    return _size(layer.kernel) * positions + _adapter(layer)


def transposed(layer: Any, inputs: list[Shape], output: Shape) -> int:
    return _size(layer.kernel) * math.prod(_spatial(layer, inputs[0]))


def separable(layer: Any, inputs: list[Shape], output: Shape) -> int:
    weights = _size(layer.depthwise_kernel) + _size(layer.pointwise_kernel)
    return weights * math.prod(_spatial(layer, output))


def dense(layer: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * layer.units + _adapter(layer)


def einsum_dense(layer: Any, inputs: list[Shape], output: Shape) -> int:
    # Every letter of the equation is a loop: those of the input, and the kernel's own.
    source, kernel = layer.equation.split("->")[0].replace(" ", "").split(",")
    own = (n for name, n in zip(kernel, layer.kernel.shape) if name not in source)
    return math.prod(inputs[0]) * math.prod(own) + _adapter(layer)


def embedding(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """A lookup; with LoRA, rows of the one factor times the other."""
    if not getattr(layer, "lora_enabled", False):
        return 0
    return math.prod(inputs[0]) * _size(layer.lora_embeddings_b)


def attention(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Projections, scores and context of multi-head and group query attention."""
    queries, keys = math.prod(inputs[0][:-1]), math.prod(inputs[1][:-1])
    projections = sum(
        _size(kernel) * (keys if part in ("key", "value") else queries)
        for part, kernel in _attention_kernels(layer).items()
    )
    return projections + attention_products(layer, inputs)


def attention_products(layer: Any, inputs: list[Shape]) -> int:
    """Scores take key_dim products for each pair and head, the context value_dim.

    Groups of queries that read one key each are as many products as without groups.
    """
    queries, keys = math.prod(inputs[0][:-1]), math.prod(inputs[1][:-1])
    kernels = _attention_kernels(layer)
    _, heads, key_dim = kernels["query"].shape
    return queries * keys * heads * (key_dim + kernels["value"].shape[-1])


def weightless_attention(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Attention on a query, a value and perhaps a key: scores and context."""
    query, value = inputs[:2]
    scores = query[-1] if layer.score_mode == "dot" else 0  # "concat" adds
    return math.prod(query[:-1]) * value[-2] * (scores + value[-1])


def additive_attention(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """The context alone: scores are sums of hyperbolic tangents."""
    query, value = inputs[:2]
    return math.prod(query[:-1]) * math.prod(value[-2:])


def _attention_kernels(layer: Any) -> dict[str, Any]:
    return {v.path.split("/")[-2]: v for v in layer.weights if v.name == "kernel"}


def cell(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """One step of an LSTM, GRU or SimpleRNN."""
    return _size(layer.kernel) + _size(layer.recurrent_kernel)


def recurrent(layer: Any, inputs: list[Shape], output: Shape) -> int:
    return cell(layer.cell, inputs, output) * inputs[0][0]


def convolutional_recurrent(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """ConvLSTM: both kernels run over the positions of a step's output."""
    rank = len(inputs[0]) - 1
    positions = math.prod(_spatial(layer, output[-rank:]))
    return cell(layer.cell, inputs, output) * positions * inputs[0][0]
