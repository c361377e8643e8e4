"""Where the zeros of a matrix are, in few bits: a density per row and per column.

Pruning does not strike evenly: inputs that tell nothing lose all of their weights, and
some units keep more than others. With `P(w_ij != 0) = sigmoid((a_i + b_j) / 2)` and
whole numbers `a`, `b` in the archive (the Rasch model), positions take fewer bits than
their plain entropy.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np

# Half units of log-odds; beyond 10 a position costs less than 0.0001 bits.
LIMIT = 20
_ONE = 1 << 24
_PASSES = 12
# Keeps a row of nothing but zeros from running away, and the numbers few.
_PRIOR = 0.05


def _shares() -> np.ndarray:
    # Decimals are rounded alike everywhere; the decoder must have the very same table.
    values = [
        int(_ONE / (1 + (Decimal(-k) / 2).exp())) for k in range(-LIMIT, LIMIT + 1)
    ]
    return np.array(values, "float64") / _ONE


PROBABILITIES = _shares()


def densities(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the whole numbers `a` (per row) and `b` (per column) that fit `mask`.

    Args:
        mask: booleans of shape `(rows, columns)`.
    """
    rows, columns = mask.shape
    share = min(max(mask.mean(), 1e-6), 1 - 1e-6)
    base = np.log(share / (1 - share))
    a, b = np.zeros(rows), np.zeros(columns)
    in_row, in_column = mask.sum(1), mask.sum(0)
    for _ in range(_PASSES):
        for axis in (0, 1):
            found = 1 / (1 + np.exp(-(base + a[:, None] + b[None, :])))
            spread = found * (1 - found)
            if axis == 0 and rows > 1:
                gain = in_row - found.sum(1) - _PRIOR * a
                a += np.clip(gain / (spread.sum(1) + _PRIOR), -1, 1)
            elif axis == 1 and columns > 1:
                gain = in_column - found.sum(0) - _PRIOR * b
                b += np.clip(gain / (spread.sum(0) + _PRIOR), -1, 1)
    a = np.clip(np.round(2 * (a + base)), -LIMIT, LIMIT)
    b = np.clip(np.round(2 * b), -LIMIT, LIMIT)
    return a.astype("int32"), b.astype("int32")


def classes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the index in `PROBABILITIES` of each position, as one row of bytes."""
    total = np.clip(a[:, None] + b[None, :], -LIMIT, LIMIT) + LIMIT
    return total.astype("uint8").reshape(-1)


def bits(mask: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Returns how many bits the positions take, and the numbers themselves."""
    index = classes(a, b)
    ones = np.bincount(index, mask.reshape(-1), len(PROBABILITIES))
    zeros = np.bincount(index, minlength=len(PROBABILITIES)) - ones
    chance = PROBABILITIES
    cost = -(ones * np.log2(chance) + zeros * np.log2(1 - chance)).sum()
    return float(cost + _entropy(a) + _entropy(b))


def _entropy(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() + 12 * len(counts))
