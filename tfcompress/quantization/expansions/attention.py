"""Multi-head attention and einsum layers as products of matrices, integer inside."""

from __future__ import annotations

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.equation import Equation
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.expansions.base import MASKED, expansion


@expansion(layers.EinsumDense)
def einsum_dense(layer: Any, parts: Parts, x: Any, **_: Any) -> Any:
    """A Dense layer, where the last axes are summed over and the new ones come last."""
    equation = Equation.of(layer.equation).named()
    (source, kernel), target = equation.terms, equation.target
    summed = [a for a in kernel if a not in target]
    made = [a for a in kernel if a in target]
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
    places = query.shape[1:-1]
    query, key, value = (_in_a_row(tensor) for tensor in (query, key, value))
    rows, repeats = query.shape[1], heads // groups

    def dense(tensor: Any, name: str, kernel: Any, **more: Any) -> Any:
        return parts(
            layers.Dense,
            f"_{name}" if name else "",
            weights=[kernel, *(b.reshape(-1) for b in weights[more.pop("of")][1:])],
            units=kernel.shape[-1],
            use_bias=config["use_bias"],
            kernel_regularizer=config["kernel_regularizer"],
            **more,
        )(tensor)

    def project(tensor: Any, name: str, **more: Any) -> Any:
        kernel = weights[name][0]
        return dense(tensor, name, kernel.reshape(len(kernel), -1), of=name, **more)

    def in_heads(tensor: Any, count: int) -> Any:
        length, width = tensor.shape[1:]
        return layers.Reshape((length, count, width // count))(tensor)

    q = project(query, "query")
    q = in_heads(parts(layers.Rescaling, "_scale", scale=1 / math.sqrt(size))(q), heads)
    k = ops.transpose(in_heads(project(key, "key"), groups), (0, 2, 3, 1))
    v = ops.transpose(in_heads(project(value, "value"), groups), (0, 2, 1, 3))
    q = ops.transpose(q, (0, 2, 1, 3))
    if repeats > 1:
        q = layers.Reshape((groups, repeats * rows, size))(q)
    # A row that sees nothing sees all alike, or nothing where Keras multiplies with the
    # mask once more: there it needs the scores themselves.
    returned = bool(options.get("return_attention_scores"))
    mask = _mask(layer, options, rows, key.shape[1])
    context, seen = weighed(
        parts,
        ops.matmul(q, k),
        v,
        _below_each_other(mask, rows, groups, repeats),
        nothing=bool(config["dropout"]) or returned or len(places) > 1,
        dropout=config["dropout"],
        training=options.get("training"),
    )
    width = context.shape[-1]
    if repeats > 1:
        context = layers.Reshape((heads, rows, width))(context)
        seen = layers.Reshape((heads, rows, key.shape[1]))(seen)
    context = ops.transpose(context, (0, 2, 1, 3))
    context = layers.Reshape((rows, heads * width))(context)
    if config.get("use_gate"):
        gate = project(query, "gate", activation="sigmoid")
        context = parts(layers.Multiply, "_gated")([context, gate])
    kernel = weights["attention_output"][0]
    outside = kernel.shape[2:]
    kernel = kernel.reshape(heads * width, -1)
    outputs = dense(context, "", kernel, of="attention_output")
    if len(places) > 1 or len(outside) > 1:
        outputs = layers.Reshape((*places, *outside))(outputs)
    return (outputs, seen) if returned else outputs


def weighed(
    parts: Parts,
    scores: Any,
    values: Any,
    mask: Any = None,
    *,
    nothing: bool = False,
    dropout: float = 0.0,
    training: bool | None = None,
) -> tuple[Any, Any]:
    """Returns means of `values`, weighed by a softmax of `scores`, and the weights.

    Args:
        parts: makes the layers.
        scores: of the last axis one for each value.
        values: of the last axis but one each is a value.
        mask: which scores may be seen, to be broadcast to them; None for all.
        nothing: whether a row of scores that sees nothing weighs nothing; otherwise
            it weighs all values alike.
        dropout: share of weights that training leaves out.
        training: as the attention layer is called.
    """
    if mask is not None:
        scores = ops.where(mask, scores, MASKED)
    weights = parts(layers.Softmax, "_softmax")(scores)
    if nothing and mask is not None and not _lets_all_see(mask):
        weights = ops.where(mask, weights, 0.0)
    kept = weights
    if dropout:
        always = {} if training is None else {"training": training}
        kept = parts(layers.Dropout, "_dropout", rate=dropout)(weights, **always)
    return ops.matmul(kept, values), weights


def _lets_all_see(mask: Any) -> bool:
    """Returns whether a mask is known to let every row see something."""
    if isinstance(mask, keras.KerasTensor):
        return False
    return bool(np.any(ops.convert_to_numpy(mask), axis=-1).all())


def _in_a_row(tensor: Any) -> Any:
    """Returns a tensor of several axes of positions with one."""
    if len(tensor.shape) == 3:
        return tensor
    return layers.Reshape((math.prod(tensor.shape[1:-1]), tensor.shape[-1]))(tensor)


def _check_attention(layer: Any, tensors: tuple, options: dict) -> None:
    if None in [size for tensor in tensors for size in tensor.shape[1:-1]]:
        raise StaysFloat(
            "the number of positions is free",
            "give the Input a fixed length, such as keras.Input((64,))",
        )
    rank = len(tensors[0].shape)
    axes = layer.get_config().get("attention_axes") or list(range(1, rank - 1))
    axes = [axis % rank for axis in axes]
    masked = any(value is not None for name, value in options.items() if "mask" in name)
    odd = any(len(tensor.shape) != rank for tensor in tensors)
    if axes != list(range(1, rank - 1)) or odd or (rank > 3 and masked):
        raise StaysFloat(
            "it attends over some of several axes, or over several with a mask",
            "reshape to (batch, positions, channels) before it",
        )


def _mask(layer: Any, options: dict, rows: int, columns: int) -> Any:
    """Returns what may be seen, (batch, heads, rows, columns) or 1; None for all."""
    found = []
    for name, axis in (("query_mask", -1), ("value_mask", -2), ("key_mask", -2)):
        if options.get(name) is not None:
            found.append(ops.expand_dims(_as_bool(options[name]), axis))
    if options.get("use_causal_mask"):
        found.append(np.tri(rows, columns, dtype=bool)[None])
    window = layer.get_config().get("sliding_window")
    if window:
        apart = np.arange(rows)[:, None] - np.arange(columns)
        found.append(np.abs(apart)[None] < window)
    if options.get("attention_mask") is not None:
        found.append(_as_bool(options["attention_mask"]))
    mask = both(found)
    while mask is not None and len(mask.shape) < 4:
        mask = ops.expand_dims(mask, -3)
    return mask


def both(masks: list) -> Any:
    """Returns what all masks let through, None where there are none."""
    # Those that are known come first, so that they are one array.
    masks = sorted(masks, key=lambda mask: isinstance(mask, keras.KerasTensor))
    return functools.reduce(ops.logical_and, masks) if masks else None


def _as_bool(mask: Any) -> Any:
    known = keras.backend.standardize_dtype(mask.dtype) == "bool"
    return mask if known else ops.cast(mask, "bool")


def _below_each_other(mask: Any, rows: int, groups: int, repeats: int) -> Any:
    """Returns a mask for heads that read the same keys, put one below the other."""
    if mask is None or repeats == 1 or tuple(mask.shape[1:3]) == (1, 1):
        return mask
    if mask.shape[1] == 1:
        return ops.tile(mask, (1, 1, repeats, 1))
    if mask.shape[2] == 1:
        mask = ops.tile(mask, (1, 1, rows, 1))
    return ops.reshape(mask, (-1, groups, repeats * rows, mask.shape[-1]))
