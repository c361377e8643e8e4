"""Convolutions with a window as chains: Tucker-2, and a column and a row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers

from tfcompress.core.graph import Node
from tfcompress.layers.matrix import kernel_matrix
from tfcompress.low_rank.decomposition import (
    Form,
    Link,
    Option,
    first_arguments,
    last_link,
    lost_mean,
    matrix_form,
    principal,
    rank_for,
    window_positions,
)
from tfcompress.low_rank.layer_moments import Moments

# Keeps weights whose inputs never vary near their old values: share of the mean
# variance that is added.
_DAMPING = 1e-3


def spatial_form(layer: Any, nodes: list[Node], moments: Moments | None) -> Form:
    """A column of the window to `rank` channels, then a row."""
    kernel = np.asarray(layer.kernel, "float32")
    height, width, channels, filters = kernel.shape
    matrix = kernel.transpose(0, 2, 1, 3).reshape(height * channels, width * filters)
    shapes = [
        (window_positions(layer, n.inputs[0]), window_positions(layer, n.output))
        for n in nodes
    ]
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
            **first_arguments(layer, layer.padding),
        )
        a = a.reshape(height, channels, rank)
        b = b.reshape(rank, width, filters).transpose(1, 0, 2).reshape(-1, filters)
        reading = np.einsum("hcr,wv->hwcvr", a, np.eye(width))
        reading = reading.reshape(-1, width * rank)
        if moments is not None:
            b = _fitted(kernel_matrix(layer), reading, _damped(moments))
        last = last_link(
            layer,
            b.reshape(1, width, rank, filters).astype("float32"),
            lost_mean(moments, kernel_matrix(layer), reading @ b),
            kernel_size=(1, width),
            strides=(1, across),
            dilation_rate=(1, last_rate),
        )
        return [(first, [a[:, None]]), last]

    responses = None
    if moments is not None:
        columns = _over_window(moments, kernel.shape, "hwcgwd->hcgd")
        responses = matrix.T @ columns.reshape(2 * matrix.shape[:1]) @ matrix
    return matrix_form(matrix, (between, after, after), links, responses)


def tucker_form(layer: Any, nodes: list[Node], moments: Moments | None) -> Form:
    """A 1x1 convolution to few channels, the window on these, and 1x1 back."""
    kernel = np.asarray(layer.kernel, "float64")
    height, width, channels, filters = kernel.shape
    window = height * width
    matrix, covariance, variance = kernel_matrix(layer).astype("float64"), None, None
    if moments is not None:
        covariance = _damped(moments)
        variance = _over_window(moments, kernel.shape, "hwchwd->cd")
    outputs, kept_out = _outputs(matrix, covariance)
    _, kept_in = _inputs(kernel, variance)
    before = sum(math.prod(window_positions(layer, node.inputs[0])) for node in nodes)
    after = sum(math.prod(window_positions(layer, node.output)) for node in nodes)

    def option(ranks: tuple[int, ...]) -> Option:
        taken, given = ranks
        parts = (channels * taken, window * taken * given, given * filters)
        macs = parts[0] * before + (parts[1] + parts[2]) * after
        # As if the two cuts had nothing to do with each other.
        return Option(ranks, sum(parts), macs, kept_in[taken - 1] * kept_out[given - 1])

    def links(ranks: tuple[int, ...]) -> list[Link]:
        taken, given = ranks
        v = outputs[:, :given]
        for _ in range(3):  # higher-order orthogonal iteration
            u = _inputs(kernel @ v, variance)[0][:, :taken]
            reading = np.kron(np.eye(window), u)
            fitted = _fitted(matrix, reading, covariance)
            v = _outputs(reading @ fitted, covariance)[0][:, :given]
        core = (fitted @ v).reshape(height, width, taken, given).astype("float32")
        head = {**first_arguments(layer, "valid"), "name": f"{layer.name}_reduced"}
        reduce = layers.Conv2D(taken, 1, **head)
        middle = layers.Conv2D(
            given,
            layer.kernel_size,
            strides=layer.strides,
            dilation_rate=layer.dilation_rate,
            **{**first_arguments(layer, layer.padding), "name": f"{layer.name}_core"},
        )
        last = last_link(
            layer,
            v.T[None, None].astype("float32"),
            lost_mean(moments, matrix, reading @ fitted @ v @ v.T),
            kernel_size=1,
            strides=1,
            dilation_rate=1,
            padding="valid",
        )
        u = u.astype("float32")
        return [(reduce, [u[None, None]]), (middle, [core]), last]

    # Both ranks in proportion, or both keeping the same energy.
    steps = max(channels, filters)
    pairs = {
        (max(1, round(channels * k / steps)), max(1, round(filters * k / steps)))
        for k in range(1, steps + 1)
    }
    pairs |= {(k, rank_for(kept_out, kept_in[k - 1])) for k in range(1, channels + 1)}
    pairs |= {(rank_for(kept_in, kept_out[k - 1]), k) for k in range(1, filters + 1)}
    return Form(
        size=kernel.size,
        macs=kernel.size * after,
        full=steps,
        options=[option(ranks) for ranks in sorted(pairs)],
        energy_ranks=lambda energy: (
            rank_for(kept_in, energy),
            rank_for(kept_out, energy),
        ),
        links=links,
        option=option,
    )


def _outputs(
    matrix: np.ndarray, covariance: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the principal directions of a kernel's outputs, and what they keep."""
    seen = matrix if covariance is None else covariance @ matrix
    return principal(matrix.T @ seen)


def _inputs(
    kernel: np.ndarray, variance: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns orthonormal directions of the input's channels, and what they keep.

    The first of them span what the best approximation of that rank reads.
    """
    flat = np.moveaxis(kernel, 2, 0).reshape(kernel.shape[2], -1)
    gram = flat @ flat.T
    if variance is None:
        return principal(gram)
    values, vectors = np.linalg.eigh(variance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    found, kept = principal(root @ gram @ root)
    return np.linalg.qr(gram @ root @ found)[0], kept


def _fitted(
    matrix: np.ndarray, reading: np.ndarray, covariance: np.ndarray | None
) -> np.ndarray:
    """Returns `w` for which `reading @ w` does best what `matrix` does.

    Args:
        matrix: a kernel, of shape (rows, outputs).
        reading: what the layers before `w` are, of shape (rows, inputs of `w`).
        covariance: of the rows; `None`: all vary alike, and `reading` is orthonormal.
    """
    if covariance is None:
        return reading.T @ matrix
    seen = covariance @ reading
    return np.linalg.solve(reading.T @ seen, seen.T @ matrix)


def _damped(moments: Moments) -> np.ndarray:
    covariance = moments.covariance
    return covariance + _DAMPING * np.mean(np.diag(covariance)) * np.eye(
        len(covariance)
    )


def _over_window(moments: Moments, shape: tuple[int, ...], axes: str) -> np.ndarray:
    """Returns the covariance summed over places of the window."""
    return np.einsum(axes, moments.covariance.reshape(shape[:3] * 2))
