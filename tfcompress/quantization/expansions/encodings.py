"""Encodings of categories: comparisons of whole numbers, which every runtime has.

LiteRT's operation for one-hot vectors has no integer kernel, and its converter none for
counts. `token == 0, token == 1, ...` says the same.
"""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfcompress.layers.integer_form import Parts
from tfcompress.quantization.expansions.base import expansion


@expansion("OneHot")
def one_hot(operation: Any, parts: Parts, x: Any) -> Any:
    last = operation.axis in (-1, len(x.shape))
    if operation.sparse or not last or "float" not in (operation.dtype or "float32"):
        return None
    return _hot(x, operation.num_classes)


@expansion("Cast")
def cast(operation: Any, parts: Parts, x: Any) -> Any:
    """The converter makes a one-hot operation of comparisons, if it may choose."""
    if x.dtype != "bool" or "float" not in str(operation.dtype):
        return None
    return ops.cast(ops.cast(x, "int32"), operation.dtype)


@expansion(layers.CategoryEncoding)
def category_encoding(
    layer: Any, parts: Parts, tokens: Any, count_weights: Any = None, **_: Any
) -> Any:
    if layer.sparse or count_weights is not None or "float" not in layer.dtype:
        return None
    return _encoded(tokens, layer.num_tokens, layer.output_mode)


@expansion(layers.Discretization)
def discretization(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """The number of the bin, and its encoding."""
    if layer.output_mode == "int" or layer.sparse or layer.bin_boundaries is None:
        return None
    config = {**layer.get_config(), "output_mode": "int"}
    bins = parts.add(type(layer).from_config(config), [])(x)
    return _encoded(bins, len(layer.bin_boundaries) + 1, layer.output_mode)


def _encoded(tokens: Any, size: int, mode: str) -> Any:
    """Source: `keras.layers.CategoryEncoding`, of a row of tokens a sample."""
    rank = len(tokens.shape)
    if mode == "one_hot":
        alone = rank > 1 and tokens.shape[-1] == 1
        return _hot(ops.squeeze(tokens, -1) if alone else tokens, size)
    if rank != 2 or tokens.shape[-1] is None:
        return None
    reduce = ops.max if mode == "multi_hot" else ops.sum
    return reduce(_hot(tokens, size), axis=1)


def _hot(tokens: Any, size: int) -> Any:
    if "int" not in tokens.dtype:
        tokens = ops.cast(tokens, "int32")
    numbers = ops.arange(size, dtype=tokens.dtype)
    return ops.cast(ops.equal(ops.expand_dims(tokens, -1), numbers), "float32")
