"""reconstruct: prunes a trained model in one go, so that its layers' outputs stay."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.copies import copy_model
from tfcompress.core.data import Inputs, inputs_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import trace
from tfcompress.core.kernel_values import warn_of_lost_values
from tfcompress.core.recorder import InputRecorder
from tfcompress.core.samples import untouched
from tfcompress.core.select import Filters, exclude, is_graph_model, require_built, walk
from tfcompress.core.sweep import Sweep
from tfcompress.layers.matrix import reason_against, rows
from tfcompress.pruning.least_squares import (
    largest,
    largest_of_groups,
    sparse_least_squares,
)
from tfcompress.pruning.patterns import (
    PATTERNS,
    NOfM,
    Pattern,
    Unstructured,
    from_matrix,
    to_matrix,
)
from tfcompress.pruning.sites import Site, select_sites
from tfcompress.schedules import ConstantSparsity, checked_sparsity

# Share of the mean diagonal that is added to the Gram matrix: keeps weights whose
# inputs never vary near their old values.
_DAMPING = 0.01


def reconstruct(
    model: keras.Model,
    data: Any,
    sparsity: float,
    filters: Filters = None,
    pattern: Pattern | dict | str = "unstructured",
    *,
    verbose: int = 0,
) -> keras.Model:
    """Returns a copy of `model` pruned without training, by least squares.

    When to use: to prune a trained model when there is no time, or no labelled data,
    to train it; a few hundred typical inputs do. It loses far less than cutting
    small weights does, because what stays is fitted anew to make up for what goes.

    Source: the family of Optimal Brain Surgeon (Hassibi & Stork, 1993), SparseGPT
    (Frantar & Alistarh, 2023) and ALPS (Meng et al., 2024). Layer by layer, in the
    order in which they run, the kernel (with its bias) becomes
    `argmin |x' @ w' - x @ w| ** 2` over `w'` with the wanted zeros, where `x` are the
    layer's inputs in the given model and `x'` those in the model pruned so far, so
    that errors are made up for by the layers behind. Each model is run once; what is
    held is what has arrived at the layer in both, on disk where it is much, and two
    square matrices of the layer's inputs.

    Args:
        model: a trained Functional or Sequential model; it is left as it is.
        data: typical inputs, with or without labels, which are not used: arrays as
            for `fit`, a dict by input name, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a list of batches (docs/data.md).
        sparsity: fraction of zeros in each kernel, in [0, 1).
        filters: which layers: a regular expression on the layer's path, a layer
            class, a predicate, or a list of these. `None` means all Dense, Conv1D,
            Conv2D and EinsumDense; others with kernels are named in a warning.
        pattern: `"unstructured"`, or `NOfM(n, m)` with sparsity `1 - n / m`.
        verbose: 1 shows progress.

    Returns:
        A new model of the same kind.

    Raises:
        InvalidArgumentError: for data that are empty or can be read only once, NaN
            in weights or inputs, or a sparsity the pattern cannot have.
        UnsupportedLayerError: if `filters` ask for other layers.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(200, 2)) @ [[1, 1, 0], [0, 1, 1]]
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[1.0], [0.5], [2.0]]), np.zeros(1)])
    >>> pruned = reconstruct(model, x, 1 / 3)     # one input follows from the others
    >>> change = pruned.predict(x, verbose=0) - model.predict(x, verbose=0)
    >>> int(np.sum(pruned.get_weights()[0] != 0)), bool(np.abs(change).max() < 0.2)
    (2, True)
    """
    sparsity = checked_sparsity("sparsity", sparsity)
    pattern = PATTERNS.get(pattern)
    if not isinstance(pattern, Unstructured | NOfM):
        raise InvalidArgumentError(
            "`reconstruct` cannot make this pattern.",
            received=type(pattern).__name__,
            expected="'unstructured' or NOfM(n, m)",
        )
    pattern.check(ConstantSparsity(sparsity))
    require_built(model, "reconstruct a model")
    if not is_graph_model(model):
        raise InvalidArgumentError(
            f"Cannot reconstruct '{model.name}': it is a subclassed model.",
            received=type(model).__name__,
            expected="a Functional or Sequential model",
        )
    inputs = inputs_of(data, model)
    pruned = copy_model(model)
    sites = pattern.fitting(_solvable(pruned, filters), asked_for=filters is not None)
    warn_of_lost_values(
        (
            (s.name, ops.convert_to_numpy(s.variable), s.kernel.output_axes)
            for s in sites
        ),
        "reconstruct",
        "Prune first, then cluster",
        zeros_stay=True,
    )
    sites = _in_order(pruned, sites, inputs)
    bar = keras.utils.Progbar(len(sites), verbose=verbose)
    twins = dict(walk(model))
    own, others = [s.layer for s in sites], [twins[s.path] for s in sites]
    with _sweep(pruned, inputs, own) as mine, _sweep(model, inputs, others) as given:
        for site, twin in zip(sites, others):
            pairs = zip(mine.inputs_of(site.layer), given.inputs_of(twin))
            _prune(site, pairs, sparsity, pattern)
            bar.add(1)
    return pruned


def _solvable(model: keras.Model, filters: Filters) -> list[Site]:
    model.trainable = True  # frozen layers are pruned too: nothing is trained here
    kept, reasons = [], {}  # type: list[Site], dict[str, list[str]]
    for site in select_sites(model, filters):
        reason = reason_against(site.layer)
        if reason is None:
            kept.append(site)
        else:
            reasons.setdefault(reason, []).append(site.name)
        if not np.all(np.isfinite(ops.convert_to_numpy(site.variable))):
            raise InvalidArgumentError(
                f"The kernel of layer '{site.path}' has NaN or infinite weights.",
                fix="load a checkpoint from before the training diverged",
            )
    for reason, names in reasons.items():
        fix = "leave them out with `filters`, or prune them with PruneWeights"
        exclude(names, "pruned", reason, fix, asked_for=filters is not None)
    return kept


def _sweep(model: keras.Model, data: Inputs, layers: list[keras.Layer]) -> Sweep:
    return Sweep(model, trace(model), data, layers)


def _in_order(model: keras.Model, sites: list[Site], data: Inputs) -> list[Site]:
    """Returns the sites that are called, in the order in which they run."""
    order: list[int] = []
    with contextlib.ExitStack() as stack:
        for number, site in enumerate(sites):
            show = functools.partial(_note, order, number)
            stack.enter_context(InputRecorder(site.layer, show))
        with untouched(model):
            model(next(iter(data)), training=False)
    return [sites[i] for i in dict.fromkeys(order)]


def _note(order: list[int], number: int, _: Any) -> None:
    order.append(number)


def _prune(
    site: Site, pairs: Iterable[tuple[list, list]], sparsity: float, pattern: Pattern
) -> None:
    """Gives a site its zeros, and fits what stays.

    Args:
        site: what to prune.
        pairs: batch by batch, what each call of its layer is given in this model and in
            the given one.
        sparsity: fraction of zeros.
        pattern: which zeros.
    """
    shape = tuple(site.variable.shape)
    kernel = ops.convert_to_numpy(
        to_matrix(ops.cast(site.variable, "float32"), site.kernel)
    )
    dense = kernel.reshape(-1, kernel.shape[-1]).astype("float64")
    bias = _bias(site)
    if bias is not None:
        dense = np.vstack([dense, ops.convert_to_numpy(bias).reshape(1, -1)])
    gram, cross = _moments(site, pairs, bias is not None)
    damping = np.full(len(gram), _DAMPING * np.mean(np.diag(gram)) + 1e-12)
    if bias is not None:
        damping[-1] = 1e-12  # its input is the constant 1, known exactly
    target = cross @ dense + damping[:, None] * dense
    gram[np.diag_indices_from(gram)] += damping
    count = kernel.size
    weights = len(dense) - (bias is not None)
    if isinstance(pattern, NOfM):
        choose = largest_of_groups(pattern.n, pattern.m)
    else:
        choose = largest(max(round(count * (1 - sparsity)), 1))

    def project(values: np.ndarray) -> np.ndarray:
        mask = np.ones(values.shape, bool)
        mask[:weights] = choose(values[:weights])
        return mask

    solved = sparse_least_squares(gram, target, dense, project)
    matrix = solved[:weights].reshape(kernel.shape).astype("float32")
    site.variable.assign(from_matrix(ops.convert_to_tensor(matrix), shape, site.kernel))
    if bias is not None:
        bias.assign(solved[-1].reshape(tuple(bias.shape)))


def _bias(site: Site) -> keras.Variable | None:
    """Returns the layer's bias if it has a value per output, which can be refitted."""
    bias = getattr(site.layer, "bias", None)
    rank = len(site.variable.shape)
    outputs = [site.variable.shape[a % rank] for a in site.kernel.output_axes]
    if bias is None or int(np.prod(bias.shape)) != int(np.prod(outputs)):
        return None
    return bias


def _moments(
    site: Site, pairs: Iterable[tuple[list, list]], constant: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of `x'.T @ x'` and of `x'.T @ x` over the data."""
    gram, cross, count = 0.0, 0.0, 0  # type: Any, Any, int
    for mine, others in pairs:
        for own, other in zip(mine, others):
            x, y = (_rows(site.layer, inputs, constant) for inputs in (own, other))
            gram, cross = gram + x.T @ x, cross + x.T @ y
            count += len(x)
    if not np.all(np.isfinite(gram)):
        raise InvalidArgumentError(
            f"The inputs of layer '{site.path}' are not finite on the given data.",
            expected="data and weights without NaN",
        )
    return gram / count, cross / count


def _rows(layer: keras.Layer, inputs: Any, constant: bool) -> np.ndarray:
    found = rows(layer, inputs).astype("float64")
    return np.hstack([found, np.ones((len(found), 1))]) if constant else found
