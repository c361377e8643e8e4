"""Dense, EinsumDense, Embedding and 1x1 convolutions as products of two matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers

from tfcompress.core.equation import Equation
from tfcompress.core.graph import Node
from tfcompress.layers import column
from tfcompress.layers.matrix import kernel_matrix
from tfcompress.low_rank.decomposition import (
    Form,
    Link,
    first_arguments,
    last_link,
    lost_mean,
    matrix_form,
    positions,
    window_positions,
)
from tfcompress.low_rank.layer_moments import Moments


def _responses(moments: Moments | None) -> np.ndarray | None:
    return None if moments is None else moments.covariance


@column("factors", layers.Dense)
def dense_form(layer: Any, nodes: list[Node], moments: Moments | None) -> Form:
    calls = sum(positions(node.inputs[0].shape[1:-1]) for node in nodes)
    matrix = kernel_matrix(layer)

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        first = layers.Dense(a.shape[1], **first_arguments(layer))
        lost = lost_mean(moments, matrix, a @ b)
        return [(first, [a]), last_link(layer, b, lost)]

    return matrix_form(matrix, (calls, calls, calls), links, _responses(moments))


@column("factors", layers.Embedding)
def embedding_form(layer: Any, nodes: list[Node], moments: Moments | None) -> Form:
    calls = sum(positions(node.inputs[0].shape[1:]) for node in nodes)

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        config = {**layer.get_config(), "name": f"{layer.name}_reduced"}
        first = type(layer).from_config({**config, "output_dim": a.shape[1]})
        last = layers.Dense(b.shape[1], use_bias=False, name=layer.name)
        return [(first, [a]), (last, [b])]

    matrix = np.asarray(layer.embeddings)
    return matrix_form(matrix, (0, calls, 0), links)


@column("factors", layers.EinsumDense)
def einsum_form(layer: Any, nodes: list[Node], moments: Moments | None) -> Form | None:
    equation = Equation.of(layer.equation)
    (source, kernel), outputs = equation.terms, equation.target
    summed = [k for k in kernel if k not in outputs]
    made = [k for k in kernel if k not in source]
    if len(summed) + len(made) < len(kernel) or not summed or not made:
        return None  # an axis that is neither, such as one kernel per head of the input
    sizes = dict(zip(kernel, layer.kernel.shape))
    inner = [sizes[k] for k in summed]
    new = equation.free_letters()[0]
    between = "".join(k for k in source if k not in summed) + new
    shape = dict(zip(source.replace("...", ""), _last_axes(source, nodes)))

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        rank = a.shape[1]
        known = [shape.get(k, rank) for k in between.replace("...", "")]
        first = layers.EinsumDense(
            f"{source},{''.join(summed)}{new}->{between}",
            known if "..." in source else known[1:],
            **{k: v for k, v in first_arguments(layer).items() if k != "use_bias"},
        )
        second = f"{between},{new}{''.join(made)}->{outputs}"
        b = b.reshape(rank, *[sizes[k] for k in made])
        last = last_link(layer, b, equation=second)
        return [(first, [a.reshape(*inner, rank)]), last]

    calls = sum(
        positions(node.inputs[0].shape[1:]) // math.prod(inner) for node in nodes
    )
    work = (calls, calls, calls)
    return matrix_form(kernel_matrix(layer), work, links, _responses(moments))


@column("factors", layers.Conv2D)
def convolution_form(
    layer: Any, nodes: list[Node], moments: Moments | None
) -> Form | None:
    """Of 1x1 convolutions; `factorize` lets the user choose that of larger windows."""
    if layer.groups > 1:
        return None
    calls = sum(math.prod(window_positions(layer, node.output)) for node in nodes)
    matrix = kernel_matrix(layer)

    def links(a: np.ndarray, b: np.ndarray) -> list[Link]:
        first = layers.Conv2D(
            a.shape[1],
            1,
            strides=layer.strides,
            **first_arguments(layer, layer.padding),
        )
        lost = lost_mean(moments, matrix, a @ b)
        last = last_link(layer, b[None, None], lost, strides=1, dilation_rate=1)
        return [(first, [a[None, None]]), last]

    return matrix_form(matrix, (calls, calls, calls), links, _responses(moments))


def _last_axes(source: str, nodes: list[Node]) -> tuple:
    letters = source.replace("...", "")
    return tuple(nodes[0].inputs[0].shape[-len(letters) :])
