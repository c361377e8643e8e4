"""A kernel that is being pruned: its mask, and what must be zero with it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.blocks import LARGE, nonzero
from tfcompress.core.callback import ProjectionChain, Restored, attach, detach
from tfcompress.core.eager import after
from tfcompress.core.gradient_tap import tap, untap
from tfcompress.pruning.criteria import Criterion, GradientCriterion
from tfcompress.pruning.patterns import Pattern
from tfcompress.pruning.sites import Site


class MaskedVariable:
    """A variable that is multiplied with a mask after each update.

    Attributes:
        before: what is done first in each step, such as renewing the mask.
        changes: counts how often the mask changed, for those who follow its zeros.
    """

    def __init__(self, variable: keras.Variable, mask: Any):
        self.variable = variable
        # A byte for each weight is a sixteenth of what the weight, its gradient and
        # Adam's moments take.
        large = math.prod(variable.shape) > LARGE
        dtype = "bool" if large else variable.dtype
        mask = ops.cast(mask, dtype)
        self._mask = keras.Variable(mask, trainable=False, dtype=dtype)
        self.before: Callable[[], None] | None = None
        self.changes = keras.Variable(0, trainable=False, dtype="int32")
        self.chain: ProjectionChain

    def __call__(self, weights: Any) -> Any:
        self.prepare()
        return self.apply(weights)

    def prepare(self) -> None:
        """Does what is to be done before the mask is used in a step."""
        if self.before is not None:
            self.before()

    def apply(self, weights: Any) -> Any:
        # Or else large masks would be numbers from the beginning of the step.
        with after(weights):
            return weights * ops.cast(self._mask, weights.dtype)

    def attach(self) -> None:
        self.chain = attach(self.variable, self)

    def detach(self) -> None:
        detach(self.variable, self)

    def enforce(self) -> None:
        """Applies the mask now: averaged weights are written after constraints.

        Products leave zeros with a sign, which files need not spend bits on. What is
        NaN or infinite stays: zeros would hide that the training failed.
        """
        stays = ops.logical_or(self.mask, ops.logical_not(ops.isfinite(self.variable)))
        self.variable.assign(ops.where(stays, self.variable, 0.0))

    @property
    def mask(self) -> Any:
        """The mask as booleans: whether a weight is kept."""
        return ops.cast(self._mask, "bool")

    def assign(self, mask: Any) -> None:
        """Sets the mask."""
        self._mask.assign(ops.cast(mask, self._mask.dtype))
        self.changes.assign_add(1)

    def weights(self) -> Any:
        """Returns the values after the user's own constraint, as float32."""
        return ops.cast(self.chain.constrained(self.variable), "float32")


class OncePerStep:
    """Runs something when the first kernel of a training step comes.

    Which one that is depends on the gradients: Keras leaves out variables that have
    none, such as the kernels of a head without a loss, and their constraints.

    Args:
        function: what to run.
    """

    def __init__(self, function: Callable[[], None]):
        self._function = function
        # Of each replica, which has a thread of its own.
        self._came: dict[int, set[int]] = {}

    def come(self, kernel: PrunedKernel) -> None:
        """Says that the constraint of a kernel is applied."""
        came = self._came.setdefault(threading.get_ident(), set())
        first = not came or id(kernel) in came  # one that comes again: another step
        if first:
            came.clear()
        came.add(id(kernel))
        if first:
            self._function()


class PrunedKernel(MaskedVariable):
    """The kernel of one site, its criterion and the vectors that go with its mask.

    Args:
        site: the kernel.
        criterion: the criterion; this kernel makes its own copy.
        pattern: the allowed shape of zeros.
        goes_on: whether the mask is the zero pattern of the weights (a run that is
            resumed), and not all ones.
    """

    def __init__(
        self, site: Site, criterion: Criterion, pattern: Pattern, goes_on: bool
    ):
        variable = site.variable
        everything = ops.ones(variable.shape, "bool")
        mask = ops.not_equal(variable, 0) if goes_on else everything
        super().__init__(variable, mask)
        self.site = site
        self.pattern = pattern
        self.criterion = criterion.for_site(site)
        self.companions = [
            MaskedVariable(vector, self._companion_mask(vector.shape, mask))
            for vector in pattern.companions(site)
        ]

    def attach(self) -> None:
        super().attach()
        for companion in self.companions:
            companion.attach()
        if isinstance(self.criterion, GradientCriterion):
            tap(self.site.model.optimizer, self.variable, self.criterion.observe)

    def detach(self) -> None:
        super().detach()
        for companion in self.companions:
            companion.detach()
        if isinstance(self.criterion, GradientCriterion):
            untap(self.site.model.optimizer, self.variable, self.criterion.observe)

    def enforce(self) -> None:
        super().enforce()
        for companion in self.companions:
            companion.enforce()

    def scores(self) -> Any:
        """Returns the score of each unit of the pattern."""
        scores = self.criterion.score(self.weights())
        units = self.pattern.reduce(scores, self.site.kernel)
        if self.criterion.reduction == "sum":
            units = units * (self.site.size / math.prod(units.shape))
        return units

    def assign_units(self, units: Any) -> None:
        """Sets the mask to the units that are kept, and those that go with it."""
        shape = tuple(self.variable.shape)
        mask = self.pattern.expand(units, shape, self.site.kernel)
        self.assign(mask)
        for companion in self.companions:
            vector = companion.variable.shape
            companion.assign(self._companion_mask(vector, mask))

    def zeros(self, restored: Restored | None = None) -> int:
        """Returns how many weights are zero, or will be of those that come back."""
        values = restored.values.get(id(self.variable)) if restored else None
        values = self.variable if values is None else values
        return self.site.size - nonzero(values)

    def _companion_mask(self, shape: Any, mask: Any) -> Any:
        axes = self.site.kernel.reduction_axes(len(mask.shape))
        channels = ops.reshape(ops.any(mask, axis=axes), (-1,))
        channels = ops.reshape(channels, _trailing(shape, channels.shape[0]))
        return ops.broadcast_to(channels, shape)


def _trailing(shape: Any, size: int) -> tuple[int, ...]:
    """Returns the last axes of `shape` that hold `size` values together."""
    shape = tuple(shape)
    starts = range(len(shape) - 1, -1, -1)
    return next(shape[i:] for i in starts if math.prod(shape[i:]) == size)
