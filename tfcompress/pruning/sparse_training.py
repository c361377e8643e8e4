"""SparseTraining: a sparse network from the first step, whose zeros move."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import one_of
from tfcompress.core.callback import FitCallback, Left, Occasional
from tfcompress.core.eager import after
from tfcompress.core.select import Filters
from tfcompress.pruning.criteria import GradientCriterion, Random
from tfcompress.pruning.kernels import PrunedKernel
from tfcompress.pruning.masks import top_masks
from tfcompress.pruning.patterns import Unstructured
from tfcompress.pruning.sites import Site, select_sites
from tfcompress.schedules import (
    CosineSparsity,
    FitSpan,
    Schedule,
    Step,
    checked_sparsity,
)


class SparseTraining(FitCallback):
    """Trains at the final sparsity from the start and moves the zeros as it learns.

    When to use: to get a sparse network that was never dense: the sparsity is that of
    deployment in every step, and at high sparsity (95 % and more) the accuracy is
    often better than what pruning a dense network leaves. For a network that is
    trained already, use `PruneWeights`.

    Source: RigL: Evci et al., "Rigging the Lottery", 2020; SET: Mocanu et al.,
    "Scalable Training of Artificial Neural Networks with Adaptive Sparse
    Connectivity", 2018. Each kernel starts with a random mask. At update `k` steps
    after the begin, of its `n` weights each kernel drops the
    `f(k) * n` of smallest magnitude, `f(k) = drop_fraction * (1 + cos(pi * k / K)) / 2`
    with `K` the steps until the end, and grows as many among its zeros: those with
    the largest gradient (RigL) or drawn by lot (SET). A grown weight
    starts from zero with the update of that step.

    Args:
        sparsity: fraction of zeros of all kernels together, in [0, 1).
        method: `"rigl"` or `"set"`.
        budget: `"erk"` (Erdos-Renyi kernel: density in proportion to the sum of the
            kernel's sizes over their product, so that small kernels stay denser) or
            `"uniform"` (the same sparsity in every kernel).
        drop_fraction: share of the weights that move in the first update, in [0, 1).
        end_step: last update; int = step of the optimizer, float = fraction of the
            fit.
        frequency: steps between updates; `None` makes some fifty in the fit.
        filters: which layers: a regular expression on the layer's path, a layer
            class, a predicate, or a list of these. `None` means all.

    Raises:
        InvalidArgumentError: for arguments out of range, a fit shorter than
            `end_step`, or `filters` that match nothing.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> model.compile("adam", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 8)); y = x @ np.ones((8, 16))
    >>> train = SparseTraining(0.75, frequency=1)
    >>> _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[train])
    >>> float(np.mean(model.layers[0].kernel.numpy() == 0))
    0.75
    """

    def __init__(
        self,
        sparsity: float,
        method: Literal["rigl", "set"] = "rigl",
        budget: Literal["erk", "uniform"] = "erk",
        drop_fraction: float = 0.3,
        end_step: Step = 0.75,
        frequency: int | None = None,
        filters: Filters = None,
    ):
        super().__init__()
        self.sparsity = checked_sparsity("sparsity", sparsity)
        for name, value, known in (
            ("method", method, ("rigl", "set")),
            ("budget", budget, ("erk", "uniform")),
        ):
            one_of(value, f"Unknown `{name}`.", known)
        fraction = checked_sparsity("drop_fraction", drop_fraction)
        self.method = method
        self.budget = budget
        # The share that moves falls along half a cosine, as a schedule can.
        self.plan = CosineSparsity(fraction, 0.0, 0.0, end_step, frequency)
        self.filters = filters
        self._kernels: list[PrunedKernel] = []

    def start(self, epoch: int) -> None:
        plan = self.plan.resolve(FitSpan(*self.fit_steps(epoch)))
        sites = select_sites(self.model, self.filters)
        goes_on = self.current_step() > plan.begin_step
        criterion = _Growth(self.method)
        with self.model.distribute_strategy.scope():
            self._kernels = [
                PrunedKernel(site, criterion, Unstructured(), goes_on) for site in sites
            ]
            # With accumulated gradients a step is seen several times; move once.
            self._moved = keras.Variable(-1, trainable=False, dtype="int32")
        counts = kept_counts(sites, self.sparsity, self.budget)
        for kernel, count in zip(self._kernels, counts):
            if not goes_on:
                lot = Random().for_site(kernel.site).score(kernel.variable)
                kernel.assign_units(*top_masks([lot], ops.array(count, "int32")))
                kernel.enforce()
            kernel.attach()
        masks = Occasional(lambda: self._move_masks(plan, counts))
        self._kernels[0].before = lambda: masks.run_when(self._is_due(plan))

    def stop(self) -> None:
        # Weights of another epoch have zeros of their own.
        for kernel in self._kernels if self.restored() is None else ():
            kernel.enforce()
        self.release()

    def left(self) -> Left:
        variables = [kernel.variable for kernel in self._kernels]
        return Left("SparseTraining", "the zeros", "PruneWeights('keep')", variables)

    def release(self) -> None:
        for kernel in self._kernels:
            kernel.detach()
        self._kernels = []

    def _is_due(self, plan: Schedule) -> Any:
        step = self.step_now()
        due = ops.logical_and(plan.is_due(step), ops.not_equal(self._moved, step))
        # At the very first step there is no reason yet to move anything.
        return ops.logical_and(due, step > plan.begin_step)

    def _move_masks(self, plan: Schedule, counts: list[int]) -> None:
        step = self.step_now()
        done: list[Any] = []
        for kernel, count in zip(self._kernels, counts):
            with after(*done):
                done = [_moved_mask(kernel, count, plan(step))]
                kernel.assign_units(*done)
        self._moved.assign(step)


def _moved_mask(kernel: PrunedKernel, count: int, fraction: Any) -> Any:
    """Returns the mask after dropping and growing; it keeps `count` weights."""
    mask = kernel.mask
    moved = ops.cast(ops.round(float(count) * fraction), "int32")
    # A resumed run may find fewer weights than the budget: a grown weight that never
    # got a gradient is zero. Growing to the budget makes up for them.
    size = ops.where(mask, ops.abs(kernel.weights()), -1.0)
    present = ops.sum(ops.cast(mask, "int32"))
    (kept,) = top_masks([size], ops.minimum(count - moved, present))
    worth = ops.where(kept, -1.0, kernel.criterion.score(kernel.variable))
    missing = count - ops.sum(ops.cast(kept, "int32"))
    (grown,) = top_masks([worth], missing)
    return ops.logical_or(kept, grown)


class _Growth(GradientCriterion):
    """What makes a zero worth growing: its last gradient, or a lot."""

    def __init__(self, method: str):
        super().__init__(decay=0.0)
        self.method = method

    def observe(self, weights: Any, gradient: Any) -> None:
        if self.method == "rigl":
            super().observe(weights, gradient)

    def measure(self, weights: Any, gradient: Any) -> Any:
        return ops.abs(gradient)

    def score(self, weights: Any) -> Any:
        if self.method == "rigl":
            return ops.convert_to_tensor(self.evidence)
        return keras.random.uniform(weights.shape, seed=self._lots)

    def build(self, site: Site) -> None:
        super().build(site)
        self._lots = keras.random.SeedGenerator(site.size)


def kept_counts(sites: list[Site], sparsity: float, budget: str) -> list[int]:
    """Returns how many weights each kernel keeps under a layer budget.

    Args:
        sites: the kernels.
        sparsity: fraction of zeros of all kernels together, in [0, 1).
        budget: `"uniform"`, or `"erk"`: the density of a kernel of sizes `a, b, c ...`
            is in proportion to `(a + b + c ...) / (a * b * c ...)`, at most 1.

    Returns:
        The counts, which add up to the rounded total (each is at least 1).
    """
    sizes = np.array([site.size for site in sites], float)
    if budget == "uniform":
        share = np.ones(len(sites))
    else:
        share = np.array([sum(s.variable.shape) for s in sites]) / sizes
    full = np.zeros(len(sites), bool)
    density = np.ones(len(sites))
    while not full.all():
        # What kernels that are fully dense do not need goes to the others.
        room = (1 - sparsity) * sizes.sum() - sizes[full].sum()
        density = np.where(full, 1.0, share * room / (share * sizes)[~full].sum())
        if not np.any(density > 1 + 1e-9):
            break
        full |= density > 1 + 1e-9
    counts = np.maximum(np.floor(density * sizes), 1).astype(int)
    missing = max(round((1 - sparsity) * sizes.sum()) - counts.sum(), 0)
    rest = np.argsort(counts - density * sizes)[:missing]
    counts[rest] += 1
    return np.minimum(counts, sizes.astype(int)).tolist()
