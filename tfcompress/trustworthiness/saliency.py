"""Which parts of an input an answer rests on, and whether two models agree on it."""

from __future__ import annotations

import itertools

import numpy as np

from tfcompress.trustworthiness.changes import SaliencyResult
from tfcompress.trustworthiness.corruptions import is_image
from tfcompress.trustworthiness.gradients import InputGradients
from tfcompress.trustworthiness.pair import Pair
from tfcompress.trustworthiness.predictions import Columns, Subject

# An occlusion costs one run of all samples.
_CELLS = 49


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns Spearman's rank correlation row by row; NaN where a row is constant.

    Equal values share the mean of their ranks.

    >>> rank_correlation(np.array([[1, 2, 3]]), np.array([[1, 9, 4]]))
    array([0.5])
    """
    ranks = [_ranks(rows) for rows in (first, second)]
    ranks = [rows - rows.mean(axis=1, keepdims=True) for rows in ranks]
    norms = np.sqrt(np.prod([np.square(rows).sum(axis=1) for rows in ranks], axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks[0] * ranks[1]).sum(axis=1) / norms


def _ranks(rows: np.ndarray) -> np.ndarray:
    ranks = np.empty(rows.shape)
    for rank, row in zip(ranks, rows):
        _, places, counts = np.unique(row, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        rank[:] = (ends - (counts - 1) / 2)[places]
    return ranks


def compare(pair: Pair, places: np.ndarray) -> SaliencyResult | None:
    """Compares what both models look at when they judge the original's answers.

    Args:
        pair: the two models.
        places: which samples.

    Returns:
        None if no sample has an explanation.
    """
    columns, answers = pair.part(places), pair.answers[0][places]
    maps, method = _gradients(pair, columns, answers), "gradient"
    if maps is None:
        both, method = (pair.original, pair.compressed), "occlusion"
        maps = [_occlusion(pair, subject, columns, answers) for subject in both]
    found = rank_correlation(*maps)
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    return SaliencyResult(method, float(found.mean()), tuple(found.tolist()))


def _gradients(
    pair: Pair, columns: Columns, answers: np.ndarray
) -> list[np.ndarray] | None:
    """Returns both models' maps; None if one of them has no gradient."""
    maps = []
    for subject in (pair.original, pair.form):
        if subject is None or subject.model is None:
            return None
        gradients = InputGradients(subject).of_score(columns, answers)
        if gradients is None:
            return None
        maps.append(_magnitudes(gradients))
    return maps


def _magnitudes(gradients: Columns) -> np.ndarray:
    """Returns the largest absolute gradient over channels, all inputs side by side.

    Source: Simonyan et al., "Deep Inside Convolutional Networks", 2013, section 3.1.
    """
    parts = []
    for gradient in gradients.values():
        size = np.abs(gradient)
        size = size.max(axis=-1) if is_image(gradient) else size
        parts.append(size.reshape(len(size), -1))
    return np.concatenate(parts, axis=1)


def _occlusion(
    pair: Pair, subject: Subject, columns: Columns, answers: np.ndarray
) -> np.ndarray:
    """Returns how much probability an answer loses when a part of the input is hidden.

    Source: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks",
    2014, section 4.2. Parts are cells of a grid; the mean of all samples hides them,
    or zero where inputs are integers, or no text where they are texts.
    """
    rows = np.arange(len(answers))
    whole = np.log(subject.probabilities(columns)[rows, answers] + 1e-12)
    losses = []
    for name, values in columns.items():
        # The mean of word numbers is no word; 0 pads, where anything does.
        hidable = name in pair.ranges
        nothing = "" if values.dtype == object else 0
        grey = values.mean(axis=0).astype(values.dtype) if hidable else nothing
        for cell in _cells(values):
            hidden = values.copy()
            hidden[cell] = np.broadcast_to(grey, values.shape)[cell]
            left = subject.probabilities({**columns, name: hidden})[rows, answers]
            losses.append(whole - np.log(left + 1e-12))
    return np.stack(losses, axis=1)


def _cells(values: np.ndarray) -> list[tuple[slice, ...]]:
    """Returns slices that cut an array into at most 49 parts; channels stay whole."""
    channels = 1 if values.ndim > 2 else 0
    axes = values.shape[1 : values.ndim - channels]
    side = max(int(_CELLS ** (1 / max(len(axes), 1))), 1)
    cells: list[tuple[slice, ...]] = [(slice(None),)]
    for size in axes:
        edges = [round(size * i / min(side, size)) for i in range(min(side, size) + 1)]
        cuts = [slice(*ends) for ends in itertools.pairwise(edges)]
        cells = [(*cell, cut) for cell in cells for cut in cuts]
    return cells
