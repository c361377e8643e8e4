"""Layers as chains of smaller ones: the forms that `factorize` can give a layer."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers

from tfcompress.core.graph import Node

Link = tuple[Any, list[np.ndarray]]
"""A layer and its weights."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to write a layer: how large, how much work, and what is kept.

    Attributes:
        ranks: the rank, or two for Tucker-2.
        size: weights of the kernels.
        macs: multiply-accumulates of one sample, all calls together.
        energy: share of the kernel's squared norm that is kept, in [0, 1].
    """

    ranks: tuple[int, ...]
    size: int
    macs: int
    energy: float

    @property
    def loss(self) -> float:
        """Minus the logarithm of the energy: 0 if all is kept."""
        return -math.log(max(self.energy, 1e-12))


@dataclasses.dataclass(frozen=True)
class Form:
    """A layer that can be factorized.

    Attributes:
        size, macs: of the layer as it is.
        full: the rank at which nothing is lost.
        options: all ranks that make sense, ascending.
        energy_ranks: returns the ranks that keep a share of the squared norm.
        links: returns the chain of layers for some ranks.
    """

    size: int
    macs: int
    full: int
    options: list[Option]
    energy_ranks: Callable[[float], tuple[int, ...]]
    links: Callable[[tuple[int, ...]], list[Link]]
    option: Callable[[tuple[int, ...]], Option]


def form_of(nodes: list[Node], conv: str) -> Form | None:
    """Returns how a layer can be written, or `None` if it cannot.

    Args:
        nodes: all calls of the layer.
        conv: `"tucker"` or `"spatial"`, for convolutions with a window.
    """
    layer = nodes[0].operation
    if isinstance(layer, layers.EinsumDense):
        return _einsum_form(layer, nodes)
    if isinstance(layer, layers.Embedding):
        return _embedding_form(layer, nodes)
    if isinstance(layer, layers.Dense):
        return _dense_form(layer, nodes)
    if isinstance(layer, layers.Conv2D) and layer.groups == 1:
        if math.prod(layer.kernel_size) == 1:
            return _pointwise_form(layer, nodes)
        return (_tucker_form if conv == "tucker" else _spatial_form)(layer, nodes)
    return None


def _matrix_form(
    matrix: np.ndarray,
    work: tuple[int, int, int],
    links: Callable[[np.ndarray, np.ndarray], list[Link]],
) -> Form:
    """A form by truncated SVD: `matrix = a @ b` with `rank` columns in `a`.

    Args:
        matrix: the kernel.
        work: how often a weight of `a`, of `b` and of the kernel is multiplied.
        links: makes the layers from `a` and `b`.
    """
    rows, columns = matrix.shape
    left, values, right = np.linalg.svd(matrix.astype("float64"), full_matrices=False)
    kept = np.cumsum(np.square(values))
    total = max(kept[-1], np.finfo("float64").tiny)

    def option(ranks: tuple[int, ...]) -> Option:
        (rank,) = ranks
        macs = rank * (rows * work[0] + columns * work[1])
        return Option(ranks, rank * (rows + columns), macs, kept[rank - 1] / total)

    def made(ranks: tuple[int, ...]) -> list[Link]:
        root = np.sqrt(values[: ranks[0]])
        a, b = left[:, : ranks[0]] * root, root[:, None] * right[: ranks[0]]
        return links(a.astype("float32"), b.astype("float32"))

    return Form(
        size=matrix.size,
        macs=matrix.size * work[2],
        full=len(values),
        options=[option((rank,)) for rank in range(1, len(values) + 1)],
        energy_ranks=lambda energy: (_rank_for(kept / total, energy),),
        links=made,
        option=option,
    )


def _dense_form(layer: Any, nodes: list[Node]) -> Form:
    calls = sum(_positions(node.inputs[0].shape[1:-1]) for node in nodes)

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        first = layers.Dense(a.shape[1], **_first(layer))
        return [(first, [a]), (_last(layer), [b, *_bias(layer)])]

    return _matrix_form(_kernel(layer), (calls, calls, calls), links)


def _embedding_form(layer: Any, nodes: list[Node]) -> Form:
    calls = sum(_positions(node.inputs[0].shape[1:]) for node in nodes)

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        config = {**layer.get_config(), "name": f"{layer.name}_reduced"}
        first = type(layer).from_config({**config, "output_dim": a.shape[1]})
        last = layers.Dense(b.shape[1], use_bias=False, name=layer.name)
        return [(first, [a]), (last, [b])]

    matrix = np.asarray(layer.embeddings)
    return _matrix_form(matrix, (0, calls, 0), links)


def _einsum_form(layer: Any, nodes: list[Node]) -> Form | None:
    sources, outputs = layer.equation.replace(" ", "").split("->")
    source, kernel = sources.split(",")
    summed = [k for k in kernel if k not in outputs]
    made = [k for k in kernel if k not in source]
    if len(summed) + len(made) < len(kernel) or not summed or not made:
        return None  # an axis that is neither, such as one kernel per head of the input
    values = _kernel(layer)
    sizes = dict(zip(kernel, values.shape))
    order = [kernel.index(k) for k in [*summed, *made]]
    inner = [sizes[k] for k in summed]
    matrix = values.transpose(order).reshape(math.prod(inner), -1)
    new = next(letter for letter in string.ascii_letters if letter not in sources)
    between = "".join(k for k in source if k not in summed) + new
    shape = dict(zip(source.replace("...", ""), _last_axes(source, nodes)))

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        rank = a.shape[1]
        known = [shape.get(k, rank) for k in between.replace("...", "")]
        first = layers.EinsumDense(
            f"{source},{''.join(summed)}{new}->{between}",
            known if "..." in source else known[1:],
            **{k: v for k, v in _first(layer).items() if k != "use_bias"},
        )
        equation = f"{between},{new}{''.join(made)}->{outputs}"
        config = {**layer.get_config(), "equation": equation}
        last = type(layer).from_config(config)
        b = b.reshape(rank, *[sizes[k] for k in made])
        return [(first, [a.reshape(*inner, rank)]), (last, [b, *_bias(layer)])]

    calls = sum(
        _positions(node.inputs[0].shape[1:]) // math.prod(inner) for node in nodes
    )
    return _matrix_form(matrix, (calls, calls, calls), links)


def _pointwise_form(layer: Any, nodes: list[Node]) -> Form:
    calls = _output_positions(layer, nodes)

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        first = layers.Conv2D(
            a.shape[1], 1, strides=layer.strides, **_first(layer, layer.padding)
        )
        last = _last(layer, strides=1, dilation_rate=1)
        return [(first, [a[None, None]]), (last, [b[None, None], *_bias(layer)])]

    return _matrix_form(_kernel(layer)[0, 0], (calls, calls, calls), links)


def _spatial_form(layer: Any, nodes: list[Node]) -> Form:
    kernel = _kernel(layer)
    height, width, channels, filters = kernel.shape
    matrix = kernel.transpose(0, 2, 1, 3).reshape(height * channels, width * filters)
    shapes = [(_window(layer, n.inputs[0]), _window(layer, n.output)) for n in nodes]
    between = sum(made[0] * given[1] for given, made in shapes)
    after = sum(made[0] * made[1] for _, made in shapes)

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        rank = a.shape[1]
        down, across = layer.strides
        (first_rate, last_rate) = layer.dilation_rate
        first = layers.Conv2D(
            rank,
            (height, 1),
            strides=(down, 1),
            dilation_rate=(first_rate, 1),
            **_first(layer, layer.padding),
        )
        last = _last(
            layer,
            kernel_size=(1, width),
            strides=(1, across),
            dilation_rate=(1, last_rate),
        )
        a = a.reshape(height, 1, channels, rank)
        b = b.reshape(rank, 1, width, filters).transpose(1, 2, 0, 3)
        return [(first, [a]), (last, [b, *_bias(layer)])]

    return _matrix_form(matrix, (between, after, after), links)


def _tucker_form(layer: Any, nodes: list[Node]) -> Form:
    kernel = _kernel(layer).astype("float64")
    height, width, channels, filters = kernel.shape
    window = height * width
    inputs, kept_in = _mode(kernel, 2)
    outputs, kept_out = _mode(kernel, 3)
    before = sum(math.prod(_window(layer, node.inputs[0])) for node in nodes)
    after = _output_positions(layer, nodes)

    def option(ranks: tuple[int, ...]) -> Option:
        taken, given = ranks
        parts = (channels * taken, window * taken * given, given * filters)
        macs = parts[0] * before + (parts[1] + parts[2]) * after
        # As if the two cuts had nothing to do with each other.
        return Option(ranks, sum(parts), macs, kept_in[taken - 1] * kept_out[given - 1])

    def links(ranks: tuple[int, ...]) -> list[Link]:
        taken, given = ranks
        u, v = inputs[:, :taken], outputs[:, :given]
        for _ in range(3):  # higher-order orthogonal iteration
            u = _mode(np.einsum("hwio,or->hwir", kernel, v), 2)[0][:, :taken]
            v = _mode(np.einsum("hwio,ir->hwro", kernel, u), 3)[0][:, :given]
        core = np.einsum("hwio,ir,os->hwrs", kernel, u, v).astype("float32")
        head = {**_first(layer, "valid"), "name": f"{layer.name}_reduced"}
        reduce = layers.Conv2D(taken, 1, **head)
        middle = layers.Conv2D(
            given,
            layer.kernel_size,
            strides=layer.strides,
            dilation_rate=layer.dilation_rate,
            **{**_first(layer, layer.padding), "name": f"{layer.name}_core"},
        )
        last = _last(layer, kernel_size=1, strides=1, dilation_rate=1, padding="valid")
        u, v = u.astype("float32"), v.T.astype("float32")
        return [
            (reduce, [u[None, None]]),
            (middle, [core]),
            (last, [v[None, None], *_bias(layer)]),
        ]

    # Both ranks in proportion, or both keeping the same energy.
    steps = max(channels, filters)
    pairs = {
        (max(1, round(channels * k / steps)), max(1, round(filters * k / steps)))
        for k in range(1, steps + 1)
    }
    pairs |= {(k, _rank_for(kept_out, kept_in[k - 1])) for k in range(1, channels + 1)}
    pairs |= {(_rank_for(kept_in, kept_out[k - 1]), k) for k in range(1, filters + 1)}
    return Form(
        size=kernel.size,
        macs=kernel.size * after,
        full=steps,
        options=[option(ranks) for ranks in sorted(pairs)],
        energy_ranks=lambda energy: (
            _rank_for(kept_in, energy),
            _rank_for(kept_out, energy),
        ),
        links=links,
        option=option,
    )


def _mode(kernel: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an axis' principal directions and the energy that the first keep."""
    flat = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    values, vectors = np.linalg.eigh(flat @ flat.T)
    kept = np.cumsum(np.maximum(values[::-1], 0))
    return vectors[:, ::-1], kept / max(kept[-1], np.finfo("float64").tiny)


def _rank_for(kept: np.ndarray, energy: float) -> int:
    return min(int(np.searchsorted(kept, energy - 1e-12)) + 1, len(kept))


def _kernel(layer: Any) -> np.ndarray:
    return np.asarray(layer.kernel, "float32")


def _bias(layer: Any) -> list[np.ndarray]:
    return [] if layer.bias is None else [np.asarray(layer.bias)]


def _first(layer: Any, padding: str | None = None) -> dict:
    """Arguments of a layer that comes before the last one of a chain."""
    arguments: dict[str, Any] = {
        "use_bias": False,
        "name": f"{layer.name}_reduced",
        "dtype": layer.dtype_policy,
        "kernel_regularizer": layer.kernel_regularizer,
    }
    if padding is not None:
        arguments.update(padding=padding, data_format=layer.data_format)
    return arguments


def _last(layer: Any, **changes: Any) -> Any:
    config = {**layer.get_config(), **changes}
    # It was meant for the kernel that no longer is.
    config.update(kernel_constraint=None, kernel_initializer="glorot_uniform")
    return type(layer).from_config(config)


def _positions(sizes: Any) -> int:
    return math.prod(size or 1 for size in sizes)


def _window(layer: Any, tensor: Any) -> tuple[int, int]:
    sizes = [size or 1 for size in tensor.shape[1:]]
    last = layer.data_format == "channels_last"
    height, width = sizes[:2] if last else sizes[1:]
    return height, width


def _output_positions(layer: Any, nodes: list[Node]) -> int:
    return sum(math.prod(_window(layer, node.output)) for node in nodes)


def _last_axes(source: str, nodes: list[Node]) -> tuple:
    letters = source.replace("...", "")
    return tuple(nodes[0].inputs[0].shape[-len(letters) :])
