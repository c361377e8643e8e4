"""PruneChannels: channels that fade out on a schedule while the model trains."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.channels.call import Site
from tfcompress.channels.dependencies import analyse
from tfcompress.channels.scores import (
    AnyCriterion,
    channel_criterion,
    channel_scores,
)
from tfcompress.channels.targets import Limits, eligible, limits_of, lowest
from tfcompress.channels.widths import Widths, meet
from tfcompress.core.callback import FitCallback, Left, Restored, attach, detach
from tfcompress.core.errors import InvalidArgumentError, warn
from tfcompress.core.select import Filters
from tfcompress.pruning.criteria import Magnitude
from tfcompress.schedules import FitSpan, Schedule, schedule_of


class PruneChannels(FitCallback):
    """Sets whole channels to zero on a schedule; `shrink(model)` then removes them.

    When to use: to make a model faster while it trains, in small steps, which costs
    less accuracy than cutting at once. Channels that the graph ties are pruned
    together, with their biases, normalization scales and the weights that read them,
    so that after `fit` a plain `shrink(model)` takes them out and the outputs stay
    the same.

    Source: group-wise pruning as in Fang et al., "DepGraph", 2023, on the schedule of
    Zhu & Gupta, 2017. At each update the `s` channels of least score in every group
    get the mask 0, with `s` from the schedule; after every step `w <- m * w`.

    Args:
        schedule: a `Schedule` instance, config or a number, which stands for
            `ConstantSparsity(number)`. Sparsity is the share of channels.
        criterion: the name of a criterion that needs no gradients, `"magnitude"`,
            `"lamp"`, `"batch_norm"`, `"random"` or a registered one, or an object with
            `score(weights)`; computed from the weights alone.
        round_to: the widths that remain are multiples of this.
        filters: which layers may lose channels; see `shrink`.
        max_layer_sparsity: the most one layer may lose; see `shrink`.

    Raises:
        InvalidArgumentError: before the first step, if the fit is too short for the
            schedule or no channel can be removed.

    Example:

    >>> from tfcompress.channels.shrink import shrink
    >>> model = keras.Sequential([keras.Input((4,)),
    ...                           keras.layers.Dense(16, "relu", name="hidden"),
    ...                           keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> _ = model.fit(np.ones((32, 4)), np.ones((32, 1)), verbose=0,
    ...               callbacks=[PruneChannels(0.5)])
    >>> shrink(model).get_layer("hidden").units
    8
    """

    def __init__(
        self,
        schedule: Schedule | dict | float,
        criterion: AnyCriterion = "magnitude",
        round_to: int = 8,
        filters: Filters = None,
        max_layer_sparsity: Limits = None,
    ):
        super().__init__()
        self.schedule = schedule_of(schedule)
        self.criterion = criterion
        self._criterion = channel_criterion(criterion)
        self.round_to = round_to
        self.filters = filters
        self.max_layer_sparsity = max_layer_sparsity
        self._masks: list[_Mask] = []

    def start(self, epoch: int) -> None:
        self._schedule = self.schedule.resolve(FitSpan(*self.fit_steps(epoch)))
        # A Distiller trains its student.
        model: Any = getattr(self.model, "student", self.model)
        self._dependencies = analyse(model)
        found = eligible(model, self._dependencies, self.filters)
        # Zeros before a LayerNormalization still count in its statistics.
        mixed = self._dependencies.mixed
        self._groups = [g for g in found if not mixed.intersection(g.members)]
        if not self._groups:
            raise InvalidArgumentError(
                f"Model '{model.name}' has no channels that PruneChannels could prune.",
                fix="print channel_groups(model) to see what keeps each of them",
            )
        limits = limits_of(
            self._groups, self.max_layer_sparsity, self._dependencies.groups
        )
        self._widths = [
            Widths(g, self.round_to, limit) for g, limit in zip(self._groups, limits)
        ]
        trainable = {id(v) for v in model.trainable_variables}
        sites: dict[int, list[Site]] = {}
        for site in self._dependencies.sites:
            if id(site.variable) in trainable:
                sites.setdefault(id(site.variable), []).append(site)
        with self.model.distribute_strategy.scope():
            self._masks = [_Mask(s) for s in sites.values()]
        for mask in self._masks:
            attach(mask.variable, mask)
        self._step = self.current_step() - 1
        zero = self._zero_channels() if self.current_step() else set()
        if self._schedule.is_behind(self.current_step()) and not zero:
            raise InvalidArgumentError(
                "The schedule lies behind: its steps are over before this fit begins.",
                received=f"a schedule that ends at step {self._schedule.end_step}, an "
                f"optimizer that has made {self.current_step()} steps",
                expected=f"end_step > {self.current_step()}",
                fix="give begin_step and end_step as fractions of the fit, such as 0.0 "
                "and 0.75, or compile the model anew, which begins at step 0",
            )
        if self._step >= self._schedule.begin_step:
            # The mask of a run that goes on is the zero pattern of its weights.
            self._apply(zero)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        step = self.current_step()
        # With steps_per_execution, several steps have passed since the last batch.
        due = [s for s in range(self._step + 1, step + 1) if self._schedule.is_due(s)]
        self._step = step
        if due:
            self._update(self._schedule(due[-1]))

    def stop(self) -> None:
        self.release()
        restored = self.restored()
        for mask in self._masks if restored is None else ():
            # Averaged weights (use_ema) are written after the last constraint.
            mask.variable.assign(mask(mask.variable))
        short = self._schedule.warn_if_cut_short(self.current_step(), "PruneChannels")
        if restored is not None and not short and not self._fit(restored):
            warn(
                f"PruneChannels: {restored.by} gives back the weights of epoch "
                f"{restored.epoch}, of before the end of the schedule. Pass "
                f"tfcompress.OnceFinal({restored.by}(...), PruneChannels(...)) in its "
                "place, for the best of the epochs after it."
            )
        self._masks = []

    def is_final(self) -> bool:
        return self._schedule.is_over(self.current_step())

    def left(self) -> Left:
        variables = [mask.variable for mask in self._masks]
        return Left("PruneChannels", "the zeros", "PruneWeights('keep')", variables)

    def _fit(self, restored: Restored) -> bool:
        """Returns whether the masks change nothing in weights that come back."""
        pairs = [(mask, restored.values.get(id(mask.variable))) for mask in self._masks]
        return all(
            values is None or np.array_equal(mask(values), values)
            for mask, values in pairs
        )

    def release(self) -> None:
        for mask in self._masks:
            detach(mask.variable, mask)

    def _update(self, sparsity: float) -> None:
        total = sum(group.channels for group in self._groups)
        counts = meet(self._widths, lambda c: float(c.sum()), total * (1 - sparsity))
        scores = channel_scores(self._dependencies, self._groups, self._criterion)
        self._apply(lowest(self._groups, scores, counts))

    def _apply(self, removed: set[int]) -> None:
        kept = ~np.isin(self._dependencies.roots, sorted(removed))
        for mask in self._masks:
            mask.renew(kept)

    def _zero_channels(self) -> set[int]:
        scores = channel_scores(self._dependencies, self._groups, Magnitude())
        return {
            member
            for group, score in zip(self._groups, scores)
            for member, value in zip(group.members, score)
            if value == 0
        }


class _Mask:
    """The mask of one weight, as the projection that Keras applies to it."""

    def __init__(self, sites: list[Site]):
        self.variable = sites[0].variable
        self._axes = {site.axis: site.ids for site in sites}
        # One factor per axis takes less memory than a mask of the weight's shape.
        self._factors = {}
        for axis, members in self._axes.items():
            shape = [1] * len(self.variable.shape)
            shape[axis] = len(members)
            self._factors[axis] = keras.Variable(np.ones(shape), trainable=False)

    def __call__(self, weights: Any) -> Any:
        for factor in self._factors.values():
            weights = weights * ops.cast(factor, weights.dtype)
        return weights

    def renew(self, kept: np.ndarray) -> None:
        for axis, members in self._axes.items():
            factor = self._factors[axis]
            factor.assign(kept[members].astype("float32").reshape(factor.shape))
        self.variable.assign(self(self.variable))
