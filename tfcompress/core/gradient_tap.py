"""A tap on the optimizer: shows the gradients of the step that runs anyway.

Keras computes the gradients of a step once and hands them to `optimizer.apply`.
While a fit runs, an instance attribute of that name lets observers see them first, in
the same compiled step, so that no criterion needs a backward pass of its own. The same
place is where variables can be trained in another way than weight by weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.replicas import summed

Observer = Callable[[Any, Any], None]
Update = Callable[[list[Any]], None]


class _Tap:
    """Stands in for `optimizer.apply` and calls it after the observers."""

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        self.optimizer = optimizer
        self.apply = optimizer.apply
        self.observers: dict[int, list[Observer]] = {}
        self.taken: list[tuple[list[keras.Variable], Update]] = []

    def __call__(self, grads: Any, trainable_variables: Any = None) -> None:
        grads = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            for gradient, variable in zip(grads, trainable_variables):
                if gradient is not None:
                    self._show(gradient, variable)
            if self.taken:
                grads, trainable_variables = self._update(grads, trainable_variables)
                if not grads:
                    # Without variables Keras' own `apply` does not count the step.
                    self.optimizer.iterations.assign_add(1)
                    return
        self.apply(grads, trainable_variables)

    def _show(self, gradient: Any, variable: keras.Variable) -> None:
        for observe in self.observers.get(id(variable), ()):
            # An Embedding's gradient is sparse slices until it is converted.
            gradient = summed(ops.cast(ops.convert_to_tensor(gradient), "float32"))
            observe(ops.cast(variable, "float32"), gradient)

    def _update(self, grads: list, variables: list) -> tuple[list, list]:
        """Lets others update what they took over; returns what is left."""
        by_variable = {id(v): g for g, v in zip(grads, variables)}
        left = dict(by_variable)
        for taken, update in self.taken:
            found = [by_variable.get(id(variable)) for variable in taken]
            if all(gradient is not None for gradient in found):
                update([ops.convert_to_tensor(gradient) for gradient in found])
                for variable in taken:
                    left.pop(id(variable), None)
        pairs = [(g, v) for g, v in zip(grads, variables) if id(v) in left]
        return [g for g, _ in pairs], [v for _, v in pairs]

    @property
    def idle(self) -> bool:
        return not (any(self.observers.values()) or self.taken)


def tap(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable, observe: Observer
) -> None:
    """Calls `observe(weights, gradient)` before each update of `variable`.

    With a LossScaleOptimizer the gradients are the unscaled ones of finite steps.
    The train function must be traced anew after this and after `untap`.
    """
    _installed(optimizer).observers.setdefault(id(variable), []).append(observe)


def untap(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable, observe: Observer
) -> None:
    """Undoes `tap`; the last one gives the optimizer its own `apply` back."""
    found = innermost(optimizer).apply
    if isinstance(found, _Tap):
        found.observers[id(variable)].remove(observe)
        _remove_if_idle(found)


def take_over(
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    update: Update,
) -> None:
    """Has `update(gradients)` train `variables`, which `optimizer` then leaves alone.

    `update` must assign the variables, their constraints applied. It runs before the
    optimizer updates the others. The train function must be traced anew after this
    and after `give_back`.
    """
    _installed(optimizer).taken.append((variables, update))


def give_back(optimizer: keras.optimizers.Optimizer, update: Update) -> None:
    """Undoes `take_over`."""
    found = innermost(optimizer).apply
    if isinstance(found, _Tap):
        found.taken = [pair for pair in found.taken if pair[1] != update]
        _remove_if_idle(found)


def innermost(optimizer: Any) -> Any:
    """Returns the optimizer that makes the updates, inside of any loss scaling."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _installed(optimizer: Any) -> _Tap:
    optimizer = innermost(optimizer)
    if not isinstance(optimizer.apply, _Tap):
        optimizer.apply = _Tap(optimizer)
    return optimizer.apply


def _remove_if_idle(found: _Tap) -> None:
    if found.idle:
        del found.optimizer.apply
