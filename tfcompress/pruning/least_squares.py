"""Sparse least squares: which entries of a matrix to keep, and their best values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Project = Callable[[np.ndarray], np.ndarray]

# How fast the two copies of the weights are pulled together: the more the support
# still changes, the bolder (Meng et al., 2024, section 3.2).
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
_FIRST_PULL, _ROUNDS, _INNER = 0.1, 100, 3


def largest(keep: int) -> Project:
    """Returns the function from values to the mask of the `keep` largest."""

    def project(values: np.ndarray) -> np.ndarray:
        mask = np.zeros(values.size, bool)
        mask[np.argpartition(-np.abs(values).ravel(), keep - 1)[:keep]] = True
        return mask.reshape(values.shape)

    return project


def largest_of_groups(n: int, m: int) -> Project:
    """Returns the function from values to the mask of `n` of each `m` rows."""

    def project(values: np.ndarray) -> np.ndarray:
        groups = np.abs(values).reshape(-1, m, values.shape[1])
        ranks = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1)
        return (ranks < n).reshape(values.shape)

    return project


def sparse_least_squares(
    gram: np.ndarray, target: np.ndarray, start: np.ndarray, project: Project
) -> np.ndarray:
    """Returns sparse `w` that makes `|x @ w - y| ** 2` small.

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot
    Pruning", 2024. ADMM with a growing penalty chooses the support: one copy of the
    weights fits the outputs, the other has the pattern, and they are pulled
    together. Conjugate gradients then find the best values on that support.

    Args:
        gram: `x.T @ x`, of shape (rows, rows), positive definite.
        target: `x.T @ y`, of shape (rows, outputs).
        start: dense weights to start from, of shape (rows, outputs).
        project: from weights to the mask of those that may stay.

    Returns:
        The weights, of the shape of `start`.

    Example:

    >>> gram, dense = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[1.0], [0.4]])
    >>> sparse_least_squares(gram, gram @ dense, dense, largest(1)).round(3).tolist()
    [[1.2], [0.0]]
    """
    # With unit diagonal an entry's size says what its removal costs.
    scale = 1 / np.sqrt(np.diag(gram))[:, None]
    gram = gram * scale * scale.T
    target, start = target * scale, start / scale
    mask = _support(gram, target, start, project)
    return _refit(gram, target, np.where(mask, start, 0.0), mask) * scale


def _support(
    gram: np.ndarray, target: np.ndarray, start: np.ndarray, project: Project
) -> np.ndarray:
    values, vectors = np.linalg.eigh(gram)
    pull, price, sparse = _FIRST_PULL, np.zeros_like(start), start
    mask = project(start)
    kept = max(int(mask.sum()), 1)
    for _ in range(_ROUNDS):
        for _ in range(_INNER):
            right = vectors.T @ (target - price + pull * sparse)
            fitting = vectors @ (right / (values[:, None] + pull))
            wanted = fitting + price / pull
            new = project(wanted)
            sparse = np.where(new, wanted, 0.0)
            price = price + pull * (fitting - sparse)
        changed = int(np.sum(new != mask)) / kept
        mask = new
        if changed == 0:
            break
        pull *= next(growth for share, growth in _GROWTH if changed >= share)
    return mask


def _refit(
    gram: np.ndarray, target: np.ndarray, start: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Conjugate gradients on the support, all outputs at once."""
    weights = start
    rest = np.where(mask, target - gram @ weights, 0.0)
    direction, norm = rest, np.sum(rest * rest, axis=0)
    first = norm
    for _ in range(min(len(gram), 200)):
        if np.all(norm <= 1e-10 * first + 1e-30):
            break
        image = np.where(mask, gram @ direction, 0.0)
        step = norm / np.maximum(np.sum(direction * image, axis=0), 1e-30)
        weights = weights + step * direction
        rest = rest - step * image
        new = np.sum(rest * rest, axis=0)
        direction = rest + new / np.maximum(norm, 1e-30) * direction
        norm = new
    return weights
