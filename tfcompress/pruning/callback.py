"""PruneWeights: zeros that grow on a schedule while the model trains."""

from __future__ import annotations

import functools
import math
from typing import Any

import keras  # noqa: F401  (the docstring's example)
from keras import ops

from tfcompress.core.arguments import one_of
from tfcompress.core.blocks import nonzero
from tfcompress.core.callback import FitCallback, Left, Occasional, Restored
from tfcompress.core.eager import after, sketch
from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.core.select import Filters
from tfcompress.pruning.criteria import CRITERIA, Criterion
from tfcompress.pruning.kernels import OncePerStep, PrunedKernel
from tfcompress.pruning.masks import (
    balanced_masks,
    global_masks,
    layer_masks,
    threshold_masks,
)
from tfcompress.pruning.patterns import Pattern, Unstructured, pattern_of
from tfcompress.pruning.sites import Site, select_sites
from tfcompress.schedules import (
    FitSpan,
    KeepSparsity,
    PolynomialSparsity,  # noqa: F401  (the docstring's example)
    Schedule,
    schedule_of,
)

# Counts are rounded, so a share may be off by less than this.
_TOLERANCE = 0.02
_SCOPES = {
    "balanced": balanced_masks,
    "layer": layer_masks,
    "global": global_masks,
}


class PruneWeights(FitCallback):
    """Prunes weights to zero on a schedule, inside the training step.

    When to use: add it to `model.fit(callbacks=[...])` (or a `Distiller`'s) to get
    sparse kernels with no change to the model: nothing is wrapped, and there is nothing
    to strip afterwards. One fit may use several of them with different `filters`.

    Source: Zhu & Gupta, "To prune, or not to prune", 2017. At each update the mask
    `m = score(w) >= t` is computed anew, with `t` such that the scheduled share of
    weights falls below it; after every step `w <- m * w`. Only kernels are pruned:
    biases and normalization parameters are left alone. A trained model keeps the zeros
    that it has while an increasing schedule asks for fewer.

    Put callbacks that choose a model (`EarlyStopping`, `ModelCheckpoint` of the best)
    into `OnceFinal`; otherwise they would choose an epoch from before the end of the
    schedule.

    Args:
        schedule: a `Schedule` instance, config or a number, which stands for
            `ConstantSparsity(number)`; or "keep", which keeps the zeros that are there.
        criterion: what ranks weights; instance or name. With a global scope `"lamp"` is
            the safest: it compares weights with others of their kernel.
        pattern: allowed shape of zeros; instance, name or a ratio such as "2:4".
        scope: which weights are ranked together. `"balanced"`: those of all kernels, so
            that layers that matter keep more, which costs less accuracy; but each keeps
            at least half of the overall share of kept weights. `"global"`: the same,
            but a kernel may lose all of its weights. `"layer"`: every kernel gets the
            scheduled sparsity, as in TFMOT. `None` is "balanced" for single weights,
            and "layer" for patterns of several weights.
        filters: which layers: a regular expression on the layer's path, a layer
            class, a predicate, or a list of these. `None` means all.
        verbose: 1 prints the plan before training and the outcome after it.

    Raises:
        InvalidArgumentError: before the first step, if the fit is too short for the
            schedule, the schedule is over already and its zeros are not there, or
            `filters` match nothing.

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
        scope: str | None = None,
        filters: Filters = None,
        verbose: int = 0,
    ):
        super().__init__()
        self.schedule = schedule_of(schedule)
        self.pattern = pattern_of(pattern)
        if scope is None:
            single = isinstance(self.pattern, Unstructured)
            scope = "balanced" if single else "layer"
        names = "'balanced', 'layer' or 'global'"
        one_of(scope, "Unknown `scope`.", _SCOPES, expected=names)
        self.pattern.check(self.schedule)
        self.scope = scope
        self.criterion = CRITERIA.get(criterion)
        self.filters = filters
        self.verbose = verbose
        self._kernels: list[PrunedKernel] = []

    def start(self, epoch: int) -> None:
        span = FitSpan(*self.fit_steps(epoch))
        self._schedule = schedule = self.schedule.resolve(span)
        sites = select_sites(self.model, self.filters)
        sites = self.pattern.fitting(sites, asked_for=self.filters is not None)
        self._held = self._held_shares(sites, schedule)
        step = self.current_step()
        began = step > schedule.begin_step and schedule(step - 1) > 0
        keeps = isinstance(schedule, KeepSparsity)
        with self.model.distribute_strategy.scope():
            self._kernels = [
                PrunedKernel(
                    site, self.criterion, self.pattern, keeps or began or held > 0
                )
                for site, held in zip(sites, self._held)
            ]
        for kernel in self._kernels:
            kernel.attach()
        # Keras applies constraints one variable after the other when all variables
        # have been updated, so the first one can renew the masks of all.
        masks = Occasional(lambda: self._renew_masks(schedule))
        renewal = OncePerStep(lambda: masks.run_when(schedule.is_due(self.step_now())))
        for kernel in self._kernels if not keeps else ():
            kernel.before = functools.partial(renewal.come, kernel)
        if self.verbose:
            size = sum(site.size for site in sites)
            count = len(sites)
            print(
                f"PruneWeights: {count} kernel{'s' * (count != 1)}, {size} weights; "
                f"{schedule.describe(span)}."
            )

    def stop(self) -> None:
        restored = self.restored()
        if restored is None:
            for kernel in self._kernels:
                kernel.enforce()
        size = sum(kernel.site.size for kernel in self._kernels)
        zeros = sum(kernel.zeros(restored) for kernel in self._kernels) / size
        if self.verbose:
            print(f"PruneWeights: {zeros:.1%} of {size} weights are zero.")
        if not self._schedule.warn_if_cut_short(self.current_step(), "PruneWeights"):
            self._warn_if_missed(zeros, restored)
        self._warn_of_nan()
        self._warn_of_nothing_left(restored)
        self.release()

    def is_final(self) -> bool:
        return self._schedule.is_over(self.current_step())

    def left(self) -> Left:
        variables = [kernel.variable for kernel in self._kernels]
        return Left("PruneWeights", "the zeros", "PruneWeights('keep')", variables)

    def _held_shares(self, sites: list[Site], schedule: Schedule) -> list[float]:
        """Returns how much of each kernel is zero already, and is to stay so.

        Raises:
            InvalidArgumentError: if the schedule is over, and its zeros are not there.
        """
        zeros = [1 - nonzero(site.variable) / site.size for site in sites]
        size = sum(site.size for site in sites)
        total = sum(share * site.size for share, site in zip(zeros, sites)) / size
        # As much as one unit of the pattern in each kernel may be kept for rounding.
        units = sum(site.size / self._units(site) for site in sites)
        self._rounding = rounding = _TOLERANCE + units * self.pattern.granule / size
        if isinstance(schedule, KeepSparsity):
            if not total:
                raise InvalidArgumentError(
                    "There are no zeros to keep.",
                    received=f"{len(sites)} kernels without a zero",
                    expected="a model that was pruned",
                    fix="pass a schedule, such as PolynomialSparsity(0.0, 0.8)",
                )
            return zeros
        step = self.current_step()
        final = schedule.final
        if schedule.is_behind(step) and (
            total == 0 if final is None else total < final - rounding
        ):
            raise InvalidArgumentError(
                "The schedule lies behind: its steps are over before this fit begins.",
                received=f"a schedule that ends at step {schedule.end_step}, an "
                f"optimizer that has made {step} steps, and {total:.1%} zeros",
                expected=f"end_step > {step}",
                fix="give begin_step and end_step as fractions of the fit, such as 0.0 "
                "and 0.75, or compile the model anew, which begins at step 0",
            )
        holds = schedule.grows and schedule.keeps_zeros
        if not holds or final is None or step == 0:
            return [0.0] * len(sites)
        # Kernels of zeros only were made so (by an initializer), not pruned.
        return [min(share, final) if share < 1 else 0.0 for share in zeros]

    def _units(self, site: Site) -> int:
        """Returns how many units the pattern has in a kernel."""
        with sketch():
            scores = ops.ones(tuple(site.variable.shape))
            return math.prod(self.pattern.reduce(scores, site.kernel).shape)

    def _warn_if_missed(self, zeros: float, restored: Restored | None) -> None:
        final = self._schedule.final
        if final is None or zeros >= final - self._rounding:
            return
        if restored is None:
            if not all(bool(ops.all(kernel.mask)) for kernel in self._kernels):
                return  # a pattern that rounds
            warn(
                f"PruneWeights: {zeros:.1%} of the weights are zero, and {final:.1%} "
                "are asked for: the training step made no masks. A "
                "`tf.function` of your own must be traced after the first "
                "`on_epoch_begin`, and call `optimizer.apply`."
            )
            return
        warn(
            f"PruneWeights: {zeros:.1%} of the weights are zero, and {final:.1%} are "
            f"asked for: {restored.by} gives back those of epoch {restored.epoch}, of "
            "before the end of the schedule. Pass tfcompress.OnceFinal("
            f"{restored.by}(...), PruneWeights(...)) in its place, for the best of the "
            "epochs after it."
        )

    def _warn_of_nan(self) -> None:
        broken = [
            kernel.site.path
            for kernel in self._kernels
            if not bool(ops.all(ops.isfinite(kernel.variable)))
        ]
        if broken:
            warn(
                f"PruneWeights: kernels hold NaN or infinite values, in "
                f"{', '.join(broken)}. Which weights to prune cannot be told from "
                "them; look for NaN in the data, or train with a lower learning rate."
            )

    def _warn_of_nothing_left(self, restored: Restored | None) -> None:
        """Warns of kernels that have no weight left, which a global scope may do."""
        gone = [
            kernel.site.path
            for kernel, held in zip(self._kernels, self._held)
            if held < 1 and kernel.zeros(restored) == kernel.site.size
        ]
        if gone:
            warn(
                f"PruneWeights: no weight is left in {', '.join(gone)}, which put out "
                "what does not depend on their inputs. Pass scope='balanced' or "
                "'layer', or criterion='lamp', which compares weights within their "
                "layer; or leave these layers out by `filters`."
            )

    def release(self) -> None:
        for kernel in self._kernels:
            kernel.detach()
        self._kernels = []

    def _renew_masks(self, schedule: Schedule) -> None:
        value = schedule(self.step_now())
        choose = _SCOPES[self.scope] if schedule.unit == "sparsity" else threshold_masks
        pairs = list(zip(self._kernels, self._held))
        apart = choose in (layer_masks, threshold_masks)
        done: list[Any] = []
        # Only of kernels that are ranked together are there all scores at once.
        for group in [[pair] for pair in pairs] if apart else [pairs]:
            with after(*done):
                scores = [kernel.scores() for kernel, _ in group]
                held = [share for _, share in group]
                done = choose(scores, value, self.pattern.granule, held)
                for (kernel, _), mask in zip(group, done):
                    kernel.assign_units(mask)
