"""Attention and einsum layers as products of matrices, integer inside."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.quantization.expansions.base import Parts, StaysFloat, expansion

# The score of what must not be seen. A softmax of 8 bits puts out 0 for it, and the
# range of the scores need not become much wider for it.
_MASKED = -16.0


@expansion(layers.EinsumDense)
def einsum_dense(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """A Dense layer, where the last axes are summed over and the new ones come last."""
    source, kernel, target = (
        layer.equation.replace(" ", "").replace("->", ",").split(",")
    )
    summed = [a for a in kernel if a not in target]
    made = [a for a in kernel if a in target]
    source, target = source.replace("...", ""), target.replace("...", "")
    as_dense = (
        kernel == "".join(summed + made)
        and source.endswith("".join(summed))
        and target.endswith("".join(made))
        and source[: len(source) - len(summed)] == target[: len(target) - len(made)]
        and layer.bias_axes in (None, "".join(made))
    )
    if not as_dense:
        raise StaysFloat(
            f"its equation '{layer.equation}' is not that of a Dense layer",
            "use an equation that sums over the last axes of the input and puts the "
            "new ones last, such as 'abc,cd->abd'",
        )
    shape = layer.kernel.shape
    size, units = math.prod(shape[: len(summed)]), shape[len(summed) :]
    weights = [w.reshape(-1, math.prod(units)) for w in layer.get_weights()[:1]]
    weights += [w.reshape(-1) for w in layer.get_weights()[1:]]
    outputs = _flat(x, len(summed), size)
    outputs = parts(
        layers.Dense,
        weights=weights,
        units=math.prod(units),
        use_bias=layer.bias is not None,
        activation=layer.activation,
        kernel_regularizer=layer.kernel_regularizer,
    )(outputs)
    if len(units) == 1:
        return outputs
    return layers.Reshape((*outputs.shape[1:-1], *units))(outputs)


def _flat(x: Any, axes: int, size: int) -> Any:
    """Returns `x` with its last axes made one."""
    return x if axes == 1 else layers.Reshape((*x.shape[1:-axes], size))(x)


@expansion(layers.MultiHeadAttention)
def multi_head_attention(
    layer: Any, parts: Parts, query: Any, value: Any, key: Any = None, **options: Any
) -> Any:
    """Source: Vaswani et al., 2017: `softmax(q k / sqrt(d)) v` in each head."""
    heads = layer.get_config()["num_heads"]
    return _attention(layer, parts, (query, key, value), options, heads)


@expansion(layers.GroupQueryAttention)
def group_query_attention(
    layer: Any, parts: Parts, query: Any, value: Any, key: Any = None, **options: Any
) -> Any:
    """Source: Ainslie et al., 2023: several query heads read one head of keys."""
    heads = layer.get_config()["num_key_value_heads"]
    return _attention(layer, parts, (query, key, value), options, heads)


def _attention(
    layer: Any, parts: Parts, tensors: tuple, options: dict, groups: int
) -> Any:
    """Attention with `groups` heads of keys and values.

    Query heads that read the same keys are put one below the other, as more queries.
    """
    query, key, value = tensors
    key = value if key is None else key
    _check_attention(layer, (query, key, value), options)
    config, weights = layer.get_config(), {}  # type: dict, dict[str, list]
    for variable in layer.weights:
        name = variable.path.split("/")[-2]
        weights.setdefault(name, []).append(ops.convert_to_numpy(variable))
    _, heads, size = weights["query"][0].shape
    lengths = [tensor.shape[1] for tensor in (query, key)]
    rows, repeats = lengths[0], heads // groups

    def project(tensor: Any, name: str, count: int, scale: float = 1.0) -> Any:
        given = weights[name]
        width = given[0].shape[-1]
        flat = [
            given[0].reshape(-1, count * width),
            *(b.reshape(-1) for b in given[1:]),
        ]
        dense = parts(
            layers.Dense,
            f"_{name}",
            weights=flat,
            units=count * width,
            use_bias=len(flat) > 1,
            kernel_regularizer=config["kernel_regularizer"],
        )(tensor)
        if scale != 1:
            dense = parts(layers.Rescaling, "_scale", scale=scale)(dense)
        return layers.Reshape((tensor.shape[1], count, width))(dense)

    q = project(query, "query", heads, 1 / math.sqrt(size))
    k = ops.transpose(project(key, "key", groups), (0, 2, 3, 1))
    v = ops.transpose(project(value, "value", groups), (0, 2, 1, 3))
    q = ops.transpose(q, (0, 2, 1, 3))
    if repeats > 1:
        q = layers.Reshape((groups, repeats * rows, size))(q)
    scores = ops.matmul(q, k)
    mask = _mask(options, rows, lengths[1], repeats)
    if mask is not None:
        scores = ops.where(mask, scores, _MASKED)
    weights_of = parts(layers.Softmax, "_softmax")(scores)
    if config["dropout"]:
        weights_of = parts(layers.Dropout, "_dropout", rate=config["dropout"])(
            weights_of
        )
    context = ops.matmul(weights_of, v)
    width = context.shape[-1]
    if repeats > 1:
        context = layers.Reshape((heads, rows, width))(context)
    context = ops.transpose(context, (0, 2, 1, 3))
    context = layers.Reshape((rows, heads * width))(context)
    last = weights["attention_output"]
    outside = last[0].shape[2:]
    return parts(
        layers.Dense,
        weights=[np.reshape(last[0], (-1, *outside)), *last[1:]],
        units=outside[0],
        use_bias=len(last) > 1,
        kernel_regularizer=config["kernel_regularizer"],
    )(context)


def _check_attention(layer: Any, tensors: tuple, options: dict) -> None:
    if getattr(layer, "use_gate", False) or getattr(layer, "sliding_window", None):
        raise StaysFloat(
            "it has a gate or a sliding window", "leave these options at their defaults"
        )
    output_shape = layer.get_config().get("output_shape") or (0,)
    if any(len(t.shape) != 3 for t in tensors) or len(output_shape) != 1:
        raise StaysFloat(
            "it attends over several axes",
            "reshape to (batch, positions, channels) before it",
        )
    if None in [tensor.shape[1] for tensor in tensors]:
        raise StaysFloat(
            "the number of positions is free",
            "give the Input a fixed length, such as keras.Input((64,))",
        )
    if options.get("return_attention_scores"):
        raise StaysFloat(
            "it returns its scores too", "call it without return_attention_scores"
        )


def _mask(options: dict, rows: int, columns: int, repeats: int) -> Any:
    """Returns what may be seen, to be broadcast to the scores; None for everything."""
    found = []
    if options.get("use_causal_mask"):
        found.append(np.tri(rows, columns, dtype=bool)[None])
    for name, axis in (("query_mask", -1), ("value_mask", 1), ("key_mask", 1)):
        if options.get(name) is not None:
            found.append(ops.expand_dims(options[name], axis))
    if options.get("attention_mask") is not None:
        found.append(ops.cast(options["attention_mask"], "bool"))
    if not found:
        return None
    mask = found[0]
    for other in found[1:]:
        mask = ops.logical_and(mask, other)
    if len(mask.shape) == 4:
        raise StaysFloat(
            "its mask differs between heads", "pass an attention_mask of three axes"
        )
    mask = mask[:, None]
    return ops.tile(mask, (1, 1, repeats, 1)) if repeats > 1 else mask
