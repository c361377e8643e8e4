"""What compression has left in the values of a kernel, asked of the values alone.

Zeros, shared values and patterns are not stored beside a kernel: they are its values.
So whatever makes new kernels asks here what would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfcompress.core.errors import warn

_MOST_VALUES = 256
# Trained weights are hardly ever exactly zero: a tenth of them has been pruned.
_PRUNED = 0.1
# Of the groups of four neighbours, how many hold exactly two weights in 2:4.
_IN_PATTERN = 0.9


def shares_values(kernel: np.ndarray, output_axes: tuple[int, ...]) -> bool:
    """Returns whether the weights of all channels share a few values: a codebook.

    Grids of a scale per channel are told from it by having values of their own in
    each channel.

    Example:

    >>> kernel = np.random.default_rng(0).choice([-0.7, 0.1, 0.4], (16, 8))
    >>> shares_values(kernel, (1,)), shares_values(kernel * np.arange(1, 9), (1,))
    (True, False)
    """
    used = kernel[kernel != 0]
    values = len(np.unique(used))
    # Exact repetitions across channels tell, also where pruning left few weights.
    if not 0 < values <= min(_MOST_VALUES, 3 * used.size // 4):
        return False
    output_axes = tuple(axis % kernel.ndim for axis in output_axes)
    others = tuple(a for a in range(kernel.ndim) if a not in output_axes)
    rows = kernel.transpose(*output_axes, *others)
    rows = rows.reshape(int(np.prod(rows.shape[: len(output_axes)])), -1)
    return 8 * values <= 7 * sum(len(np.unique(row[row != 0])) for row in rows)


def two_of_four(matrix: np.ndarray) -> bool:
    """Returns whether each four neighbours along the inputs hold two weights at most.

    Args:
        matrix: a kernel as (places, inputs, outputs).

    Example:

    >>> kernel = np.array([1.0, 0.0, 2.0, 0.0] * 4).reshape(1, 16, 1)
    >>> two_of_four(kernel), two_of_four(kernel[:, 1:13])
    (True, True)
    """
    places, inputs, outputs = matrix.shape
    if inputs % 4 or not inputs:
        return False
    groups = (matrix != 0).reshape(places, inputs // 4, 4, outputs).sum(axis=2)
    return bool(groups.max() <= 2 and np.mean(groups == 2) >= _IN_PATTERN)


def warn_of_lost_values(
    kernels: Iterable[tuple[str, np.ndarray, tuple[int, ...]]],
    action: str,
    fix: str,
    zeros_stay: bool = False,
) -> None:
    """Names kernels whose zeros or shared values will be gone.

    Args:
        kernels: name, values and output axes of each.
        action: what is done, such as "factorize".
        fix: what to do instead.
        zeros_stay: whether zeros are kept.
    """
    lost = []
    for name, values, output_axes in kernels:
        zeros = float(np.mean(values == 0))
        if zeros >= _PRUNED and not zeros_stay:
            lost.append(f"{name} ({zeros:.0%} zeros)")
        elif shares_values(values, output_axes):
            count = len(np.unique(values[values != 0]))
            lost.append(f"{name} ({count} shared values)")
    if lost:
        warn_of_loss(f"{action} makes new weights of {', '.join(lost)}. {fix}")


def warn_of_loss(text: Any) -> None:
    """Warns that what an earlier step made will not last."""
    warn(f"What was made before is lost: {text}.")
