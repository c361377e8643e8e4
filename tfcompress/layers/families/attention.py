"""Attention."""

from __future__ import annotations

import math
from typing import Any

from keras import layers

from tfcompress.layers.rules import fill
from tfcompress.layers.sizes import Shape, size


def attention(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Projections, scores and context of multi-head and group query attention."""
    queries, keys = math.prod(inputs[0][:-1]), math.prod(inputs[1][:-1])
    projections = sum(
        size(kernel) * (keys if part in ("key", "value") else queries)
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


fill(
    (layers.MultiHeadAttention, layers.GroupQueryAttention),
    flow="float",
    macs=attention,
    family="attention",
)
fill((layers.Attention,), flow="float", macs=weightless_attention, family="attention")
fill((layers.AdditiveAttention,), flow="float", macs=additive_attention)
