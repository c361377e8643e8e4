"""A layer as a chain of smaller ones: ranks, costs, and the links of the chain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfcompress.low_rank.layer_moments import Moments

Link = tuple[Any, list[np.ndarray]]
"""A layer and its weights."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to write a layer: how large, how much work, and what is kept.

    Attributes:
        ranks: the rank, or two for Tucker-2.
        size: weights of the kernels.
        macs: multiply-accumulates of one sample, all calls together.
        energy: share that is kept, in [0, 1], of the kernel's squared norm, or of the
            variance of what it makes of data.
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
        energy_ranks: returns the ranks that keep a share of the energy.
        links: returns the chain of layers for some ranks.
    """

    size: int
    macs: int
    full: int
    options: list[Option]
    energy_ranks: Callable[[float], tuple[int, ...]]
    links: Callable[[tuple[int, ...]], list[Link]]
    option: Callable[[tuple[int, ...]], Option]


def matrix_form(
    matrix: np.ndarray,
    work: tuple[int, int, int],
    links: Callable[[np.ndarray, np.ndarray], list[Link]],
    responses: np.ndarray | None = None,
) -> Form:
    """A form `matrix = a @ b` with `rank` columns in `a`.

    What `a` makes are the principal components of the matrix' outputs; without data,
    this is the truncated SVD.

    Args:
        matrix: the kernel.
        work: how often a weight of `a`, of `b` and of the kernel is multiplied.
        links: makes the layers from `a` and `b`.
        responses: covariance of the outputs on data, of shape (columns, columns).
    """
    rows, columns = matrix.shape
    full = min(rows, columns)
    matrix = matrix.astype("float64")
    if responses is None:
        _, values, right = np.linalg.svd(matrix, full_matrices=False)
        directions, kept = right.T, shares(np.square(values))
    else:
        directions, kept = principal(responses)

    def option(ranks: tuple[int, ...]) -> Option:
        (rank,) = ranks
        macs = rank * (rows * work[0] + columns * work[1])
        return Option(ranks, rank * (rows + columns), macs, kept[rank - 1])

    def made(ranks: tuple[int, ...]) -> list[Link]:
        basis = directions[:, : ranks[0]]
        a = matrix @ basis
        # Both factors learn alike if their columns and rows are of one length.
        root = np.sqrt(np.maximum(np.linalg.norm(a, axis=0), 1e-12))
        a, b = a / root, basis.T * root[:, None]
        return links(a.astype("float32"), b.astype("float32"))

    return Form(
        size=matrix.size,
        macs=matrix.size * work[2],
        full=full,
        options=[option((rank,)) for rank in range(1, full + 1)],
        energy_ranks=lambda energy: (rank_for(kept, energy),),
        links=made,
        option=option,
    )


def principal(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns principal directions, as columns, and the energy that the first keep."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors[:, ::-1], shares(np.maximum(values[::-1], 0))


def shares(values: np.ndarray) -> np.ndarray:
    """Returns which share of the sum the first values have, for each number of them."""
    kept = np.cumsum(values)
    return kept / max(kept[-1], np.finfo("float64").tiny)


def rank_for(kept: np.ndarray, energy: float) -> int:
    """Returns how many directions keep a share of the energy."""
    return min(int(np.searchsorted(kept, energy - 1e-12)) + 1, len(kept))


def first_arguments(layer: Any, padding: str | None = None) -> dict:
    """Returns arguments of a layer that comes before the last one of a chain."""
    arguments: dict[str, Any] = {
        "use_bias": False,
        "name": f"{layer.name}_reduced",
        "dtype": layer.dtype_policy,
        "kernel_regularizer": layer.kernel_regularizer,
    }
    if padding is not None:
        arguments.update(padding=padding, data_format=layer.data_format)
    return arguments


def last_link(
    layer: Any, kernel: np.ndarray, lost: np.ndarray | None = None, **changes: Any
) -> Link:
    """Returns the end of a chain: a layer with the name and bias of the whole one.

    Args:
        layer: the whole one.
        kernel: of the last one.
        lost: what the chain's outputs fall short of on average; the bias has it.
        changes: to the layer's configuration.
    """
    config = {**layer.get_config(), **changes}
    # They were meant for the kernel that no longer is.
    config.update(kernel_constraint=None, kernel_initializer="glorot_uniform")
    bias = None if layer.bias is None else np.asarray(layer.bias)
    if lost is not None:
        config["use_bias"] = True
        bias = lost if bias is None else bias + lost
    weights = [kernel] if bias is None else [kernel, bias]
    return type(layer).from_config(config), weights


def lost_mean(
    moments: Moments | None, matrix: np.ndarray, product: np.ndarray
) -> np.ndarray | None:
    """Returns what outputs lose on average if a product takes a kernel's place."""
    return None if moments is None else moments.mean @ (matrix - product)


def positions(sizes: Any) -> int:
    """Returns how many places axes have; an unknown size counts once."""
    return math.prod(size or 1 for size in sizes)


def window_positions(layer: Any, tensor: Any) -> tuple[int, int]:
    """Returns the height and width of a convolution's input or output."""
    sizes = [size or 1 for size in tensor.shape[1:]]
    last = layer.data_format == "channels_last"
    height, width = sizes[:2] if last else sizes[1:]
    return height, width
