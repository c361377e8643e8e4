"""Codebooks in training: kernels whose weights are entries, and how entries move."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.clustering.lookup import (
    best_group,
    counts_by_code,
    grouped,
    look_up,
    sums_by_code,
)
from tfcompress.clustering.masked_codes import MaskedCodes
from tfcompress.clustering.moments import SlotWriter, calls_of, read_slots, write_slots
from tfcompress.clustering.starts import codebook, nearest
from tfcompress.core.blocks import LARGE, count, nonzero, occurrences
from tfcompress.core.callback import Occasional, ProjectionChain
from tfcompress.core.eager import after
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.gradient_tap import give_back, innermost, take_over


class SharedKernel:
    """The weights of one kernel, as indices of codebook entries; 0 stands for zero.

    Args:
        variable: the kernel.
        codes: for each weight 0, or one more than the index of its entry.
        count: how many entries there are.

    Attributes:
        latent: what the weights would be if they shared nothing, where members are
            trained; it decides which entry a weight belongs to.
    """

    latent: keras.Variable | None = None

    def __init__(self, variable: keras.Variable, codes: np.ndarray, count: int):
        self.variable = variable
        self.shape = tuple(variable.shape)
        self.size = math.prod(self.shape)
        self.base = count + 1
        self.group = best_group(self.size, self.base)
        flat = codes.reshape(-1)
        small = np.min_scalar_type(count) if self.size > LARGE else np.dtype("int32")
        self._codes = _state(flat, small.name)
        self.grouped = _state(grouped(flat, self.group, self.base))
        self.members = _state(occurrences(flat, self.base)[1:])
        self.alive = _state(np.count_nonzero(flat))
        self._renewal = Occasional(self.take_zeros_out)

    @property
    def codes(self) -> Any:
        """For each weight 0, or one more than the index of its entry, as int32."""
        return ops.cast(self._codes, "int32")

    def follow_zeros(self) -> None:
        """Takes weights that have become zero out of their clusters."""
        if not is_projected(self.variable):
            return  # nothing but a projection sets weights to zero
        self._renewal.run_when(ops.not_equal(self._count_alive(), self.alive))

    def _count_alive(self) -> Any:
        return count(lambda part: ops.not_equal(part, 0), self.variable)

    def take_zeros_out(self) -> None:
        """Leaves weights that are zero by now without a cluster."""
        self._assign_codes(self.codes)
        self.alive.assign(self._count_alive())

    def train_members(self, weights: np.ndarray) -> None:
        """Lets weights go from entry to entry as `weights`, their latent values, do."""
        self.latent = keras.Variable(weights, dtype="float32", name="latent")

    def join_nearest(self, entries: Any) -> None:
        """Makes each weight a member of the entry that is nearest to its latent value.

        Zeros stay zero.
        """
        order = ops.argsort(entries)
        ordered = ops.take(entries, order)
        places = ops.searchsorted(
            (ordered[1:] + ordered[:-1]) / 2, ops.reshape(self.latent, (-1,))
        )
        self._assign_codes(ops.cast(ops.take(order, places), "int32") + 1)

    def _assign_codes(self, codes: Any) -> None:
        kept = ops.reshape(ops.not_equal(self.variable, 0), (-1,))
        codes = ops.where(kept, codes, 0)
        self._codes.assign(ops.cast(codes, self._codes.dtype))
        self.grouped.assign(grouped(codes, self.group, self.base))
        self.members.assign(counts_by_code(codes, self.base)[1:])

    def sums(self, values: Any) -> Any:
        """Returns the sum of `values` over the members of each entry."""
        # Or else codes of large kernels would be integers from the step's beginning.
        values = ops.convert_to_tensor(values)
        with after(values):
            return sums_by_code(values, self.codes, self.base)[1:]

    def expand(self, entries: Any) -> Any:
        """Returns the kernel with these entries."""
        values = ops.concatenate([ops.zeros((1,), entries.dtype), entries])
        weights = look_up(values, self.grouped, self.group, self.size)
        return ops.reshape(weights, self.shape)

    def assign(self, values: Any) -> None:
        """Sets the kernel to `values` after what else constrains it."""
        if self.variable.constraint is not None:
            values = self.variable.constraint(ops.cast(values, self.variable.dtype))
        self.variable.assign(ops.cast(values, self.variable.dtype))

    def assign_unmasked(self, values: Any) -> None:
        """Sets the kernel to `values`, which hold the zeros of masks already."""
        for mask in self.masks or ():
            mask.prepare()
        self.variable.assign(ops.cast(values, self.variable.dtype))

    def apply_masks(self) -> None:
        """Multiplies the kernel with its masks."""
        values = ops.convert_to_tensor(self.variable)
        for mask in self.masks or ():
            values = mask.apply(values)
        self.variable.assign(values)

    @property
    def masks(self) -> list[Any] | None:
        """The masks, if nothing else constrains the kernel; otherwise None."""
        found = self.variable.constraint
        if isinstance(found, ProjectionChain):
            return found.masks
        return [] if found is None else None

    @property
    def has_own_constraint(self) -> bool:
        """Whether the user constrained the kernel, which may part what is shared."""
        found = self.variable.constraint
        return (
            found.original if isinstance(found, ProjectionChain) else found
        ) is not None


class Codebook:
    """The values that the weights of some kernels share.

    Args:
        variables: the kernels by name.
        count: how many values there may be, zero included where it occurs.
        start: where the entries start; a name in `starts.STARTS`.
        trained_members: whether weights may go from entry to entry.
        zero_may_come: whether to keep a value free for zeros there may be later.

    Raises:
        InvalidArgumentError: if a kernel has no finite or only zero weights.
    """

    def __init__(
        self,
        variables: dict[str, keras.Variable],
        count: int,
        start: str,
        trained_members: bool,
        zero_may_come: bool,
    ):
        for name, variable in variables.items():
            _check(name, _weights(variable))
        zero = zero_may_come or any(
            nonzero(variable) < math.prod(variable.shape)
            for variable in variables.values()
        )
        values = codebook(_without_zeros(variables), count - int(zero), start)
        values = values[values != 0]
        self.count = len(values)
        self.entries = keras.Variable(values, dtype="float32", name="codebook")
        self.kernels = [
            SharedKernel(variable, _codes(_weights(variable), values), self.count)
            for variable in variables.values()
        ]
        if trained_members:
            for kernel in self.kernels:
                kernel.train_members(_weights(kernel.variable))

    @property
    def latents(self) -> list[keras.Variable]:
        """The latent values of the kernels; none where members are fixed."""
        return [k.latent for k in self.kernels if k.latent is not None]

    @property
    def has_masks_alone(self) -> bool:
        """Whether zeros come to the kernels by masks only, if at all."""
        return all(kernel.masks is not None for kernel in self.kernels)

    def mean_gradient(self, gradients: list[Any]) -> Any:
        """Returns the gradient of each entry: the mean of that of its members."""
        for kernel in self.kernels if not self.has_masks_alone else ():
            kernel.follow_zeros()
        return self._means(gradients)

    def spread(self) -> None:
        """Sets all kernels to the entries as they are now."""
        for kernel in self.kernels:
            if kernel.latent is not None:
                kernel.join_nearest(ops.convert_to_tensor(self.entries))
            values = kernel.expand(ops.convert_to_tensor(self.entries))
            if self.has_masks_alone:
                kernel.assign_unmasked(values)
            else:
                kernel.assign(values)
        if any(kernel.has_own_constraint for kernel in self.kernels):
            self.gather()

    def gather(self) -> None:
        """Sets the entries to the means of their members, and the kernels to them."""
        for kernel in self.kernels:
            kernel.follow_zeros()
        self.entries.assign(self._means([kernel.variable for kernel in self.kernels]))
        for kernel in self.kernels:
            values = kernel.expand(ops.convert_to_tensor(self.entries))
            kernel.variable.assign(ops.cast(values, kernel.variable.dtype))

    def is_shared(self) -> bool:
        """Returns whether the kernels hold these entries and nothing else."""
        return all(
            bool(ops.all(ops.equal(kernel.variable, ops.cast(values, values.dtype))))
            for kernel in self.kernels
            for values in [
                ops.cast(kernel.expand(self.entries.value), kernel.variable.dtype)
            ]
        )

    def _means(self, values: list[Any]) -> Any:
        sums = sum(k.sums(value) for k, value in zip(self.kernels, values))
        members = sum(ops.cast(k.members, "float32") for k in self.kernels)
        return sums / ops.maximum(members, 1.0)


class SharedTraining:
    """Trains codebooks in place of the kernels that are made of them.

    Source: with `w_i = c[a_i]`, `dL/dc[k]` is the sum of `dL/dw_i` over the members of
    `k`; divided by their number it has the size of a weight's gradient. An optimizer
    such as Adam is no linear function of gradients, so the mean of the steps that it
    would make with each weight is not the step that it makes with the mean. The
    entries are therefore variables of their own with an optimizer of the same kind,
    whose moments are those of the mean gradients.

    Where members are trained, the gradient of a weight also moves its latent value, as
    if the nearest entry were the value itself (straight-through: Courbariaux et al.,
    "BinaryConnect", 2015).

    Args:
        optimizer: the optimizer of the model; its learning rate is followed.
        codebooks: the codebooks.
    """

    def __init__(self, optimizer: Any, codebooks: list[Codebook]):
        self.codebooks = codebooks
        self.original = innermost(optimizer)
        config = self.original.get_config()
        config.update(learning_rate=0.0, use_ema=False)
        self.optimizer = type(self.original).from_config(config)
        latents = [latent for codebook in codebooks for latent in codebook.latents]
        self.optimizer.build([*(book.entries for book in codebooks), *latents])
        variables = [k.variable for c in codebooks for k in c.kernels]
        self._masked = MaskedCodes(codebooks)
        take_over(self.original, variables, self.update)
        self._writer = SlotWriter(
            optimizer, lambda: write_slots(self.original, self.optimizer, codebooks)
        )

    def resume(self, steps: int) -> None:
        """Goes on with the moments that a saved run had after so many steps."""
        if any(book.latents for book in self.codebooks):
            return  # their moments are saved nowhere
        if steps > 0 and read_slots(self.original, self.optimizer, self.codebooks):
            calls_of(self.optimizer).assign(steps)

    def update(self, gradients: list[Any]) -> None:
        """Makes one step with the entries and sets the kernels to them."""
        self._masked.follow()
        moved: list[tuple[Any, keras.Variable]] = []
        rest = list(gradients)
        for book in self.codebooks:
            own, rest = rest[: len(book.kernels)], rest[len(book.kernels) :]
            moved.append((book.mean_gradient(own), book.entries))
            moved.extend(zip(own, book.latents))
        self.optimizer.learning_rate = self.original.learning_rate
        self.optimizer.apply(*zip(*moved))
        for book in self.codebooks:
            book.spread()
        self._masked.show()

    def stop(self) -> None:
        """Gives the kernels back to the model's optimizer."""
        self._writer.remove()
        give_back(self.original, self.update)


def is_projected(variable: keras.Variable) -> bool:
    """Returns whether a callback changes the values of `variable` after each update."""
    return isinstance(variable.constraint, ProjectionChain)


def _state(value: Any, dtype: str = "int32") -> keras.Variable:
    return keras.Variable(np.asarray(value, dtype), trainable=False, dtype=dtype)


def _weights(variable: keras.Variable) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(variable, "float32"))


def _without_zeros(variables: dict[str, keras.Variable]) -> np.ndarray:
    arrays = (_weights(variable) for variable in variables.values())
    return np.concatenate([array[array != 0] for array in arrays])


def _codes(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    codes = nearest(weights, values, np.min_scalar_type(len(values)))
    codes += 1
    codes[weights == 0] = 0
    return codes


def _check(name: str, weights: np.ndarray) -> None:
    if not np.all(np.isfinite(weights)):
        raise InvalidArgumentError(
            f"Cannot cluster '{name}': its weights are not all finite.",
            received=f"{np.count_nonzero(~np.isfinite(weights))} of {weights.size} "
            "weights are NaN or infinite",
            fix="train with a lower learning rate or with gradient clipping",
        )
    if not np.any(weights):
        raise InvalidArgumentError(
            f"Cannot cluster '{name}': all of its weights are zero.",
            expected="at least one weight that is not",
            fix="prune it less, or leave it out with `filters`",
        )
