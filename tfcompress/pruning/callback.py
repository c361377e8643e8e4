"""PruneWeights: zeros that grow on a schedule while the model trains."""

from __future__ import annotations

import functools

import keras  # noqa: F401  (the docstring's example)
from keras import ops

from tfcompress.core.arguments import one_of
from tfcompress.core.callback import FitCallback, run_when
from tfcompress.core.select import Filters
from tfcompress.pruning.criteria import Criterion, criteria
from tfcompress.pruning.kernels import OncePerStep, PrunedKernel
from tfcompress.pruning.masks import global_masks, layer_masks, threshold_masks
from tfcompress.pruning.patterns import Pattern, patterns
from tfcompress.pruning.sites import select_sites
from tfcompress.schedules import (
    FitSpan,
    PolynomialSparsity,  # noqa: F401  (the docstring's example)
    Schedule,
    schedule_of,
)

_SCOPES = {"layer": layer_masks, "global": global_masks}


class PruneWeights(FitCallback):
    """Prunes weights to zero on a schedule, inside the training step.

    When to use: add it to `model.fit(callbacks=[...])` (or a `Distiller`'s) to get
    sparse kernels with no change to the model: nothing is wrapped, and there is
    nothing to strip afterwards. Several of them with different `filters` may be used
    in one fit.

    Source: Zhu & Gupta, "To prune, or not to prune", 2017. At each update the mask
    `m = score(w) >= t` is computed anew, with `t` such that the scheduled share of
    weights falls below it; after every step `w <- m * w`. Only kernels are pruned:
    biases and normalization parameters are left alone.

    Args:
        schedule: a `Schedule` instance, config or a number, which stands for
            `ConstantSparsity(number)`.
        criterion: what ranks weights; instance or name.
        pattern: allowed shape of zeros; instance or name.
        scope: `"layer"` gives every kernel the scheduled sparsity; `"global"` ranks
            the weights of all kernels together, so that layers that matter keep
            more.
        filters: which layers: a regular expression on the layer's path, a layer
            class, a predicate, or a list of these. `None` means all.
        verbose: 1 prints the plan before training and the outcome after it.

    Raises:
        InvalidArgumentError: before the first step, if the fit is too short for the
            schedule or `filters` match nothing.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((64, 8)), np.ones((64, 16))
    >>> prune = PruneWeights(PolynomialSparsity(0.0, 0.75, frequency=1), verbose=1)
    >>> _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[prune])
    PruneWeights: 1 kernel, 128 weights; 3 updates at steps 0, 1, 2; final sparsity \
0.75 at step 2.
    PruneWeights: 75.0% of 128 weights are zero.
    >>> float(np.mean(model.layers[0].kernel.numpy() == 0))
    0.75
    """

    def __init__(
        self,
        schedule: Schedule | dict | float,
        criterion: Criterion | dict | str = "magnitude",
        pattern: Pattern | dict | str = "unstructured",
        scope: str = "layer",
        filters: Filters = None,
        verbose: int = 0,
    ):
        super().__init__()
        self.schedule = schedule_of(schedule)
        self.criterion = criteria.get(criterion)
        self.pattern = patterns.get(pattern)
        one_of(scope, "Unknown `scope`.", _SCOPES)
        self.pattern.check(self.schedule)
        self.scope = scope
        self.filters = filters
        self.verbose = verbose
        self._kernels: list[PrunedKernel] = []

    def start(self, epoch: int) -> None:
        span = FitSpan(*self.fit_steps(epoch))
        self._schedule = schedule = self.schedule.resolve(span)
        sites = select_sites(self.model, self.filters)
        sites = self.pattern.fitting(sites, asked_for=self.filters is not None)
        goes_on = self.current_step() > schedule.begin_step
        with self.model.distribute_strategy.scope():
            self._kernels = [
                PrunedKernel(site, self.criterion, self.pattern, goes_on)
                for site in sites
            ]
        for kernel in self._kernels:
            kernel.attach()
        # Keras applies constraints one variable after the other when all variables
        # have been updated, so the first one can renew the masks of all.
        renewal = OncePerStep(lambda: self._refresh(schedule))
        for kernel in self._kernels:
            kernel.before = functools.partial(renewal.come, kernel)
        if self.verbose:
            size = sum(site.size for site in sites)
            count = len(sites)
            print(
                f"PruneWeights: {count} kernel{'s' * (count != 1)}, {size} weights; "
                f"{schedule.describe(span)}."
            )

    def stop(self) -> None:
        for kernel in self._kernels:
            kernel.enforce()
        if self.verbose:
            size = sum(kernel.site.size for kernel in self._kernels)
            zeros = sum(kernel.zeros() for kernel in self._kernels)
            print(f"PruneWeights: {zeros / size:.1%} of {size} weights are zero.")
        self._schedule.warn_if_cut_short(self.current_step(), "PruneWeights")
        self.release()

    def release(self) -> None:
        for kernel in self._kernels:
            kernel.detach()
        self._kernels = []

    def _refresh(self, schedule: Schedule) -> None:
        step = ops.cast(self.model.optimizer.iterations, "int32")
        choose = _SCOPES[self.scope] if schedule.unit == "sparsity" else threshold_masks

        def renew() -> None:
            scores = [kernel.scores() for kernel in self._kernels]
            masks = choose(scores, schedule(step), self.pattern.granule)
            for kernel, mask in zip(self._kernels, masks):
                kernel.assign_mask(mask)

        run_when(schedule.is_due(step), renew)
