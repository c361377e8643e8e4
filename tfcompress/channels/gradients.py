"""What gradients say of weights, collected by an optimizer that moves nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.copies import copy_model
from tfcompress.core.data import Reader, pairs_of
from tfcompress.core.errors import InvalidArgumentError


class _Collector(keras.optimizers.Optimizer):
    """Adds up what a criterion measures and leaves the weights alone.

    Keras has no public gradient function, but every back end hands the gradients to
    an optimizer.
    """

    def __init__(self, criterion: Any) -> None:
        super().__init__(learning_rate=0.0, name="importance")
        self.criterion = criterion
        self.sums: dict[int, keras.Variable] = {}

    def build(self, variables: Any) -> None:
        if not self.built:
            super().build(variables)
            for v in variables:
                self.sums[id(v)] = self.add_variable_from_reference(v, "importance")

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        self.build(trainable_variables)
        for gradient, variable in zip(grads, trainable_variables):
            if gradient is not None:
                weights = ops.cast(variable, gradient.dtype)
                measured = self.criterion.measure(weights, gradient)
                self.sums[id(variable)].assign_add(measured)


def gradient_importance(
    model: keras.Model, data: Any, criterion: Any
) -> Callable[[keras.Variable], np.ndarray]:
    """Returns what a criterion measures at the weights of `model`, summed over batches.

    The gradients come from one pass of `fit` over `data` with a copy of the model that
    learns nothing.

    Args:
        model: a compiled model; its loss is used, and it is not changed.
        data: `(inputs, targets)` or other data with labels (docs/data.md).
        criterion: one that needs gradients, and no training.

    Raises:
        InvalidArgumentError: without data, or if the model has no loss.
    """
    if data is None:
        raise InvalidArgumentError(
            f"Criterion {type(criterion).__name__} needs data to take gradients from.",
            received="data=None",
            expected="data=(inputs, targets) or a data set of such batches",
        )
    loss = getattr(model, "loss", None)
    if loss is None:
        raise InvalidArgumentError(
            f"Criterion {type(criterion).__name__} needs the gradients of a loss.",
            received=f"model '{model.name}', which is not compiled with one",
            fix="model.compile(loss=...) before shrink",
        )
    pairs = _checked(model, data)
    copy = copy_model(model)
    collector = _Collector(criterion)
    copy.compile(collector, loss)
    with warnings.catch_warnings():
        # Keras warns of an empty data set, which is an error here.
        warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
        history = copy.fit(**pairs, verbose=0).history
    if not history.get("loss"):
        _empty()
    found = {
        id(original): collector.sums.get(id(copied))
        for original, copied in zip(model.weights, copy.weights)
    }

    def importance(variable: keras.Variable) -> np.ndarray:
        held = found.get(id(variable))
        if held is None:  # frozen: no gradient says anything about it
            return np.zeros(tuple(variable.shape))
        return ops.convert_to_numpy(held)

    return importance


def _checked(model: keras.Model, data: Any) -> dict[str, Any]:
    """Returns the arguments with which `fit` reads `data` once."""
    reader, pairs = Reader.of(model), pairs_of(data, once=True)
    if isinstance(pairs, tuple):
        named = reader.columns(*reader.entry(pairs))
        if not len(next(iter(named.values()))):
            _empty()
        return {**dict(zip(("x", "y", "sample_weight"), pairs)), "shuffle": False}
    if not isinstance(data, list):
        return {"x": data}
    if not data:
        _empty()

    def batches() -> Iterator[tuple]:
        for named, labels in reader.batches(list(pairs)):
            yield (reader.packed(named), *labels)

    return {"x": batches()}


def _empty() -> None:
    raise InvalidArgumentError(
        "`data` is empty, so there are no gradients to rank by.",
        expected="at least one batch of (inputs, targets)",
    )
