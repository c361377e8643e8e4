"""decoder_step: one step of a causal decoder, with its keys and values kept outside."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.arguments import integer
from tfcompress.core.errors import InvalidArgumentError, UnsupportedLayerError, one_line
from tfcompress.core.graph import Graph, Node, Tensor, build, output_names, trace
from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.core.select import walk
from tfcompress.layers import fill
from tfcompress.layers.families.attention import attention, attention_products
from tfcompress.layers.sizes import Shape
from tfcompress.quantization.composite import QuantizedComposite
from tfcompress.quantization.wrapper import QuantizedLayer

_PURPOSE = "make a model of one step"
_ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)
_TOLERANCE, _TRIED, _FEWEST_NUMBERS = 1e-3, 6, 4


def decoder_step(model: keras.Model, length: int | None = None) -> keras.Model:
    """Returns a model of one step of a causal decoder, with its cache from outside.

    When to use: to generate text on a device. The decoder computes all positions of a
    text at once; for each token that is added, this model computes the new one only.
    It comes after training, `calibrate` and `finalize`, and is exported like any model.

    Source: the attention of position `t` needs the keys and values of positions
    `0 ... t`, which do not change once they are computed (Shazeer, "Fast Transformer
    Decoding", 2019). They are written at `position` into tensors of `length` rows;
    later rows are masked.

    Args:
        model: a Functional model whose layers treat each position on its own, but for
            self-attention (`MultiHeadAttention`, `GroupQueryAttention`) with
            `use_causal_mask=True`. All of its inputs are sequences; positions are an
            input too, if the model needs them. It is not changed.
        length: how many positions the cache has; by default those of the inputs.

    Returns:
        A new Functional model. It takes a dict: the inputs with one position, the
        number `"position"` of each sample, and `"<layer>_keys"`, `"<layer>_values"`,
        zeros at first. It returns a dict: the outputs, and both as
        `"<layer>_keys_next"`, `"<layer>_values_next"`.

    Raises:
        InvalidArgumentError: if the model has no such attention, or no length.
        UnsupportedLayerError: if a layer cannot run on one position, or the steps do
            not compute what the model does: the model is tried on a few positions.

    Example:

    >>> ids = keras.Input((8,), name="ids", dtype="int32")
    >>> x = layers.Embedding(10, 16, name="words")(ids)
    >>> y = layers.MultiHeadAttention(2, 8, name="attention")(
    ...     x, x, use_causal_mask=True)
    >>> step = decoder_step(keras.Model(ids, layers.Dense(10, name="logits")(y)))
    >>> sorted(step.input)
    ['attention_keys', 'attention_values', 'ids', 'position']
    """
    graph = trace(model, _PURPOSE)
    length = _length(graph, length)
    position = Tensor((None,), "int32", "position")
    inputs = {
        tensor.name: dataclasses.replace(tensor, shape=(None, 1, *tensor.shape[2:]))
        for tensor in graph.input_tensors
    }
    mapping = dict(zip(graph.input_tensors, inputs.values()))
    caches: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}
    nodes = []
    for node in graph.nodes:
        if isinstance(getattr(node.operation, "layer", node.operation), _ATTENTION):
            node = _cached(node, length, position, caches, made)
        nodes.append(node)
    if not caches:
        raise InvalidArgumentError(
            f"Model '{model.name}' has no attention whose keys could be kept.",
            expected="MultiHeadAttention or GroupQueryAttention layers",
            fix="use the model as it is; of an integer model ('w8a8') attention is "
            "taken apart: weight-only schemes such as 'w4b32' keep it whole",
        )
    outputs = dict(zip(output_names(model), graph.output_tensors))
    given = {**inputs, "position": position, **caches}
    step = Graph(model.name, given, {**outputs, **made}, nodes).substitute(mapping)
    try:
        built = build(step)
    except Exception as error:
        raise UnsupportedLayerError(
            "A layer of the decoder cannot run on one position.",
            received=one_line(error),
            expected="layers that treat each position on its own",
        ) from error
    _check(model, graph, built, length)
    return built


def _length(graph: Graph, length: int | None) -> int:
    short = [t.name for t in graph.input_tensors if len(t.shape) < 2]
    known = {t.shape[1] for t in graph.input_tensors if len(t.shape) > 1}
    if short or len(known) != 1:
        raise InvalidArgumentError(
            "All inputs of a decoder are sequences of the same length.",
            received=", ".join(f"{t.name} {t.shape}" for t in graph.input_tensors),
            expected="inputs of shape (batch, length, ...)",
        )
    (own,) = known
    if length is None and own is None:
        raise InvalidArgumentError(
            "The cache has no length.",
            received="inputs of free length, and length=None",
            expected="`length`, the most positions of a text",
        )
    return integer(length or own, "`length` is a number of positions.", low=1, high=own)


def _cached(
    node: Node,
    length: int,
    position: Tensor,
    caches: dict[str, Tensor],
    made: dict[str, Tensor],
) -> Node:
    """Returns a node of attention that reads a cache, and notes what it reads."""
    operation, name = node.operation, node.name
    attention = getattr(operation, "layer", operation)
    _refuse(node, attention)
    parts = _parts(attention)
    _, heads, size = parts["key"].kernel.shape
    sizes = {"keys": size, "values": parts["value"].kernel.shape[-1]}
    ends = {
        kind: (
            Tensor((None, length, heads, width), "float32", f"{name}_{kind}"),
            Tensor((None, length, heads, width), "float32", f"{name}_{kind}_next"),
        )
        for kind, width in sizes.items()
    }
    for before, after in ends.values():
        caches[before.name], made[after.name] = before, after
    # The name is the attention's: messages, and files, know no other.
    cached: Any = CachedAttention(attention, name=name)
    if isinstance(operation, QuantizedLayer):
        cached = QuantizedComposite(cached, operation.quantizer, (), True, name=name)
    (keys, new_keys), (values, new_values) = ends.values()
    return Node(
        cached,
        (node.inputs[0], keys, values, position),
        {},
        (node.output, new_keys, new_values),
        source=cached,
    )


def _refuse(node: Node, attention: Any) -> None:
    """Raises for attention of which a cache would be something else."""
    options = {k: v for k, v in node.kwargs.items() if v is not None and v is not False}
    causal = options.pop("use_causal_mask", False)
    options.pop("training", None)
    config = attention.get_config()
    reason = None
    if not causal:
        reason = "it looks ahead, use_causal_mask=False"
    elif options:
        reason = f"it is given {', '.join(options)}"
    elif len(set(node.inputs)) > 1:
        reason = "its keys are not made of what its queries are made of"
    elif config.get("use_gate") or len(node.inputs[0].shape) != 3:
        reason = "it is gated, or attends over several axes"
    elif isinstance(node.operation, QuantizedLayer) and not node.operation.frozen:
        reason = "the model is still in training"
    if reason is not None:
        raise UnsupportedLayerError(
            f"The keys of '{node.name}' cannot be kept.",
            received=reason,
            expected="causal self-attention of a float or finalized model",
        )


def _parts(attention: Any) -> dict[str, Any]:
    return {layer.name: layer for _, layer in walk(attention)}


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class CachedAttention(layers.Wrapper):
    """Attention of one position to those before it, whose keys and values it is given.

    When to use: `decoder_step` puts it in the place of causal self-attention.

    Args:
        layer: a built MultiHeadAttention or GroupQueryAttention.
    """

    def build(self, *shapes: Any, **named: Any) -> None:
        self.built = True  # the layer within is

    def call(self, inputs: Any, keys: Any, values: Any, position: Any) -> Any:
        parts = _parts(self.layer)
        query, key, value = (parts[n](inputs) for n in ("query", "key", "value"))
        length, groups = keys.shape[1:3]
        heads, size = query.shape[2:]
        places = ops.expand_dims(ops.arange(length, dtype="int32"), 0)
        position = ops.expand_dims(position, 1)
        here = ops.cast(ops.equal(places, position), keys.dtype)[:, :, None, None]
        keys = keys * (1.0 - here) + key * here
        values = values * (1.0 - here) + value * here
        # Heads that read the same keys are rows of one product.
        query = ops.reshape(query, (-1, groups, heads // groups, size))
        scores = ops.matmul(
            query * (1.0 / math.sqrt(size)), ops.transpose(keys, (0, 2, 3, 1))
        )
        seen = ops.less_equal(places, position)[:, None, None, :]
        weights = ops.softmax(ops.where(seen, scores, -1e9))
        context = ops.matmul(weights, ops.transpose(values, (0, 2, 1, 3)))
        context = ops.reshape(context, (-1, 1, heads, values.shape[-1]))
        return parts["attention_output"](context), keys, values

    def compute_output_shape(
        self, inputs_shape: Any, keys_shape: Any, values_shape: Any, *_: Any, **__: Any
    ) -> Any:
        return inputs_shape, keys_shape, values_shape


def _macs(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Projections of one position; scores and context with all that are kept."""
    here, kept = inputs[0], inputs[1][:1]
    projections = attention(layer.layer, [here, here], output)
    alone = attention_products(layer.layer, [here, here])
    return projections - alone + attention_products(layer.layer, [here, (*kept, 1)])


fill((CachedAttention,), macs=_macs)


def _check(model: keras.Model, graph: Graph, step: keras.Model, length: int) -> None:
    """Raises unless the steps compute what the model does, on a few positions."""
    generator = np.random.default_rng(0)
    own = graph.input_tensors[0].shape[1] or length
    given = {}
    for tensor in graph.input_tensors:
        shape = (1, own, *(size or 1 for size in tensor.shape[2:]))
        whole = "int" in tensor.dtype
        drawn = generator.integers(0, _FEWEST_NUMBERS, shape)
        values = drawn if whole else generator.normal(size=shape)
        given[tensor.name] = values.astype(tensor.dtype)
    arrays = [ops.convert_to_tensor(array) for array in given.values()]
    structure = keras.tree.pack_sequence_as(graph.inputs, arrays)
    expected = keras.tree.flatten(model(structure, training=False))
    state = {
        name: np.zeros((1, *tensor.shape[1:]), "float32")
        for name, tensor in step.input.items()
        if name not in given and name != "position"
    }
    names = output_names(model)
    for place in range(min(_TRIED, length)):
        one = {name: array[:, place : place + 1] for name, array in given.items()}
        fed = {**one, "position": np.array([place], "int32"), **state}
        found = step({k: ops.convert_to_tensor(v) for k, v in fed.items()})
        state = {name: found[f"{name}_next"] for name in state}
        for name, whole in zip(names, expected):
            wanted = ops.convert_to_numpy(whole)[:, place : place + 1]
            got = ops.convert_to_numpy(found[name])
            off = np.abs(wanted - got).max()
            if not off <= _TOLERANCE * max(np.abs(wanted).max(), 1.0):
                raise UnsupportedLayerError(
                    "One step of the decoder computes something else than the decoder.",
                    received=f"'{name}' is off by {off:.3g} at position {place}",
                    expected="layers that treat each position on its own, and causal "
                    "attention",
                    fix="give positions as an input of the model, not as a constant",
                )
