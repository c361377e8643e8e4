"""Attention without projections: Attention, AdditiveAttention and the operation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.expansions.attention import both, weighed
from tfcompress.quantization.expansions.base import expansion
from tfcompress.quantization.primitives import ScaleOffset


@expansion(layers.Attention)
def attention(layer: Any, parts: Parts, inputs: Any, **options: Any) -> Any:
    """Source: Luong et al., 2015: `softmax(scale * q k) v`."""
    query, value, key = _three(inputs)
    if layer.score_mode != "dot":
        raise StaysFloat(
            f"its score_mode is '{layer.score_mode}'",
            "use score_mode='dot', or AdditiveAttention",
        )
    if layer.use_scale:
        query = _scaled(parts, "_scale", query, layer.scale)
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))
    return _attend(layer, parts, scores, value, options)


@expansion(layers.AdditiveAttention)
def additive_attention(layer: Any, parts: Parts, inputs: Any, **options: Any) -> Any:
    """Source: Bahdanau et al., 2015: `softmax(w tanh(q + k)) v`."""
    query, value, key = _three(inputs)
    pairs = parts(layers.Add, "_pairs")(
        [ops.expand_dims(query, -2), ops.expand_dims(key, -3)]
    )
    pairs, size = ops.tanh(pairs), query.shape[-1]
    # Without weights it is a sum, which is exact as a product with ones.
    weights = ops.convert_to_numpy(layer.scale) if layer.use_scale else np.ones(size)
    scores = parts(
        layers.Dense,
        "_scores",
        weights=[weights.reshape(size, 1)],
        units=1,
        use_bias=False,
        trainable=layer.use_scale,
    )
    scores = ops.squeeze(scores(pairs), -1)
    return _attend(layer, parts, scores, value, options)


@expansion("DotProductAttention")
def dot_product_attention(
    operation: Any,
    parts: Parts,
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: Any = None,
) -> Any:
    """`keras.ops.dot_product_attention`, with heads on the last axis but one."""
    heads, size = query.shape[2:]
    if bias is not None or operation.attn_logits_soft_cap or key.shape[2] != heads:
        raise StaysFloat(
            "it has a bias or a soft cap, or its heads share keys",
            "use ops.matmul, ops.softmax and ops.where, or GroupQueryAttention",
        )
    masks = [] if mask is None else [mask]
    if operation.is_causal:
        _check_lengths(query.shape[1], key.shape[1])
        masks.append(np.tri(query.shape[1], key.shape[1], dtype=bool)[None, None])
    scale = 1 / math.sqrt(size) if scale is None else float(scale)
    query = parts(layers.Rescaling, "_scale", scale=scale)(query)
    query, value = (ops.transpose(t, (0, 2, 1, 3)) for t in (query, value))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 3, 1)))
    context, _ = weighed(parts, scores, value, both(masks))
    return ops.transpose(context, (0, 2, 1, 3))


def _three(inputs: list) -> tuple[Any, Any, Any]:
    query, value, *key = inputs
    return query, value, key[0] if key else value


def _scaled(parts: Parts, suffix: str, x: Any, factor: Any) -> Any:
    weights = [np.reshape(ops.convert_to_numpy(factor), (1,))]
    scale = parts(ScaleOffset, suffix, weights=weights, offset=False, single=True)
    return scale(x)


def _attend(layer: Any, parts: Parts, scores: Any, value: Any, options: dict) -> Any:
    query_mask, value_mask, *_ = options.get("mask") or (None, None)
    masks = []
    if value_mask is not None:
        two = len(value_mask.shape) == 2
        masks.append(ops.expand_dims(value_mask, -2) if two else value_mask)
    if options.get("use_causal_mask"):
        rows, columns = scores.shape[-2:]
        _check_lengths(rows, columns)
        masks.append(np.tri(rows, columns, dtype=bool)[None])
    context, weights = weighed(
        parts,
        scores,
        value,
        both(masks),
        dropout=layer.dropout,
        training=options.get("training"),
    )
    if query_mask is not None:
        context = ops.where(ops.expand_dims(query_mask, -1), context, 0.0)
    return (context, weights) if options.get("return_attention_scores") else context


def _check_lengths(*lengths: Any) -> None:
    if None in lengths:
        raise StaysFloat(
            "the number of positions is free",
            "give the Input a fixed length, such as keras.Input((64,))",
        )
