"""A tap on the optimizer: shows the gradients of the step that runs anyway.

Keras computes the gradients of a step once and hands them to `optimizer.apply`.
While a fit runs, an instance attribute of that name lets observers see them first, in
the same compiled step, so that no criterion needs a backward pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Observer = Callable[[Any, Any], None]


class _Tap:
    """Stands in for `optimizer.apply` and calls it after the observers."""

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        self.optimizer = optimizer
        self.apply = optimizer.apply
        self.observers: dict[int, list[Observer]] = {}

    def __call__(self, grads: Any, trainable_variables: Any = None) -> None:
        grads = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            for gradient, variable in zip(grads, trainable_variables):
                if gradient is not None:
                    self._show(gradient, variable)
        self.apply(grads, trainable_variables)

    def _show(self, gradient: Any, variable: keras.Variable) -> None:
        for observe in self.observers.get(id(variable), ()):
            # An Embedding's gradient is sparse slices until it is converted.
            gradient = ops.cast(ops.convert_to_tensor(gradient), "float32")
            observe(ops.cast(variable, "float32"), gradient)


def tap(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable, observe: Observer
) -> None:
    """Calls `observe(weights, gradient)` before each update of `variable`.

    With a LossScaleOptimizer the gradients are the unscaled ones of finite steps.
    The train function must be traced anew after this and after `untap`.
    """
    optimizer = _innermost(optimizer)
    if not isinstance(optimizer.apply, _Tap):
        optimizer.apply = _Tap(optimizer)
    optimizer.apply.observers.setdefault(id(variable), []).append(observe)


def untap(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable, observe: Observer
) -> None:
    """Undoes `tap`; the last one gives the optimizer its own `apply` back."""
    optimizer = _innermost(optimizer)
    if not isinstance(optimizer.apply, _Tap):
        return
    observers = optimizer.apply.observers
    observers[id(variable)].remove(observe)
    if not any(observers.values()):
        del optimizer.apply


def _innermost(optimizer: Any) -> Any:
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer
