"""PruneWeights: zeros that grow on a schedule while the model trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.callback import FitCallback, ProjectionChain, attach, detach
from tfcompress.core.errors import (
    CompressionWarning,
    InvalidArgumentError,
    UnsupportedLayerError,
)
from tfcompress.core.select import Filters, select, walk
from tfcompress.layer_rules import Kernel, kernels_of, rule_of
from tfcompress.pruning.criteria import Criterion, criteria
from tfcompress.pruning.masks import global_masks, layer_masks
from tfcompress.pruning.patterns import Pattern, patterns
from tfcompress.schedules import (
    ConstantSparsity,
    FitSpan,
    PolynomialSparsity,  # noqa: F401  (the docstring's example)
    Schedule,
    schedules,
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
        if isinstance(schedule, int | float):
            schedule = ConstantSparsity(schedule)
        self.schedule = schedules.get(schedule)
        if not isinstance(self.schedule, Schedule):
            raise InvalidArgumentError(
                "`schedule` is not a schedule.",
                received=f"{schedule!r} ({type(schedule).__name__})",
                expected="a Schedule such as PolynomialSparsity(0.0, 0.8), or a number",
            )
        self.criterion = criteria.get(criterion)
        self.pattern = patterns.get(pattern)
        if scope not in _SCOPES:
            raise InvalidArgumentError(
                "Unknown `scope`.", received=repr(scope), expected="'layer' or 'global'"
            )
        self.scope = scope
        self.filters = filters
        self.verbose = verbose
        self._kernels: list[_PrunedKernel] = []

    def start(self, epoch: int) -> None:
        span = FitSpan(*self.fit_steps(epoch))
        schedule = self.schedule.resolve(span)
        self._kernels = select_kernels(self.model, self.filters)
        resumed = self.current_step() > schedule.begin_step
        with self.model.distribute_strategy.scope():
            for kernel in self._kernels:
                kernel.create_mask(resumed)
        for kernel in self._kernels:
            kernel.chain = attach(kernel.variable, kernel)
        # Keras applies constraints one variable after the other when all variables
        # have been updated, so the first one can renew the masks of all.
        self._kernels[0].refresh = lambda: self._refresh(schedule)
        if self.verbose:
            size = sum(k.size for k in self._kernels)
            count = len(self._kernels)
            print(
                f"PruneWeights: {count} kernel{'s' * (count != 1)}, {size} weights; "
                f"{schedule.describe(span)}."
            )

    def release(self) -> None:
        for kernel in self._kernels:
            detach(kernel.variable, kernel)
        self._kernels = []

    def stop(self) -> None:
        for kernel in self._kernels:
            # Averaged weights (use_ema) are written after the last constraint.
            kernel.variable.assign(kernel.apply(kernel.variable))
        if self.verbose:
            size = sum(k.size for k in self._kernels)
            zeros = sum(k.zeros() for k in self._kernels)
            print(f"PruneWeights: {zeros / size:.1%} of {size} weights are zero.")
        self.release()

    def _refresh(self, schedule: Schedule) -> None:
        step = ops.cast(self.model.optimizer.iterations, "int32")

        def renew() -> Any:
            scores = [k.scores(self.criterion, self.pattern) for k in self._kernels]
            masks = _SCOPES[self.scope](scores, schedule(step))
            for kernel, mask in zip(self._kernels, masks):
                kernel.assign_mask(mask, self.pattern)
            return step

        ops.cond(schedule.is_due(step), renew, lambda: step)


class _PrunedKernel:
    """One kernel's mask, as the projection that Keras applies after each update."""

    def __init__(self, path: str, kernel: Kernel, variable: keras.Variable):
        self.path = path
        self.kernel = kernel
        self.variable = variable
        self.size = math.prod(variable.shape)
        self.refresh: Callable[[], None] | None = None
        self.chain: ProjectionChain
        self.mask: keras.Variable

    def __call__(self, weights: Any) -> Any:
        if self.refresh is not None:
            self.refresh()
        return self.apply(weights)

    def apply(self, weights: Any) -> Any:
        # Not a product, which would make zeros with a sign that no file needs.
        return ops.where(self.mask, weights, ops.zeros((), weights.dtype))

    def create_mask(self, resumed: bool) -> None:
        # The mask of a run that goes on is the zero pattern of its weights.
        initial = (
            ops.not_equal(self.variable, 0)
            if resumed
            else ops.ones(self.variable.shape, "bool")
        )
        self.mask = keras.Variable(initial, trainable=False, dtype="bool")

    def scores(self, criterion: Criterion, pattern: Pattern) -> Any:
        weights = self.chain.constrained(self.variable)
        scores = criterion.score(ops.cast(weights, "float32"))
        return pattern.reduce(scores, self.kernel)

    def assign_mask(self, mask: Any, pattern: Pattern) -> None:
        self.mask.assign(pattern.expand(mask, self.variable.shape, self.kernel))

    def zeros(self) -> int:
        return self.size - int(ops.count_nonzero(self.variable))


def select_kernels(model: keras.Model, filters: Filters) -> list[_PrunedKernel]:
    """Returns the trainable kernels of `model` in the order of its variables.

    A layer that has weights but no rule is named in a warning, or is an error where
    `filters` ask for it.
    """
    order = {id(v): i for i, v in enumerate(model.trainable_variables)}
    found: dict[int, _PrunedKernel] = {}
    unknown = []
    for path, layer in select(model, filters, _is_candidate):
        if rule_of(layer) is None:
            unknown.append(f"{path} ({type(layer).__name__})")
        for kernel, variable in kernels_of(layer):
            if id(variable) in order:
                found[id(variable)] = _PrunedKernel(path, kernel, variable)
    if unknown and filters is not None:
        raise UnsupportedLayerError(
            "`filters` ask to prune layers that have no rule.",
            received=", ".join(unknown),
            expected="layers with a rule, such as Dense or Conv2D",
            fix="tell where their kernels are: "
            "register_layer_rule(LayerRule(YourLayer, kernels=(Kernel('kernel'),)))",
        )
    if not found:
        raise InvalidArgumentError(
            f"Model '{model.name}' has no trainable kernel to prune.",
            received=f"filters={filters!r}",
            expected="at least one trainable layer with a kernel, such as Dense",
            fix="set layer.trainable = True on the layers to prune",
        )
    if unknown:
        warnings.warn(
            f"Not pruned, because these layers have no rule: {', '.join(unknown)}. "
            "Use register_layer_rule to tell where their kernels are.",
            CompressionWarning,
            stacklevel=2,
        )
    return sorted(found.values(), key=lambda k: order[id(k.variable)])


def _is_candidate(layer: keras.Layer) -> bool:
    if rule_of(layer) is not None:
        return any(True for _ in kernels_of(layer))
    holds_others = any(True for _ in walk(layer))
    return not holds_others and any(len(v.shape) > 1 for v in layer.trainable_variables)
