"""The integer form of a layer type: a function that says it in simpler layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

Expansion = Callable[..., Any]
"""`(operation, parts, *args, **kwargs) -> symbolic outputs`.

`args` are those of the call, with symbolic tensors; `None` is returned where the
operation stays as it is.
"""


class StaysFloat(Exception):
    """An expansion raises it where an operation, as it is used, has no integer form.

    Args:
        reason: what about the operation it is, "it has a mask".
        fix: what the user can do about it.
    """

    def __init__(self, reason: str, fix: str):
        super().__init__(reason)
        self.reason, self.fix = reason, fix


class Part:
    """One layer that another is expanded into: called, it gets its weights first."""

    def __init__(self, layer: keras.Layer, weights: list | None):
        self.layer, self.weights = layer, weights

    def build(self, shape: tuple) -> None:
        """Builds the layer and sets its weights, once."""
        if not self.layer.built:
            self.layer.build(shape)
            if self.weights is not None:
                self.layer.set_weights(self.weights)
        self.weights = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fresh = not self.layer.built
        outputs = self.layer(*args, **kwargs)
        if fresh and self.weights is not None:
            self.layer.set_weights(self.weights)
        self.weights = None
        return outputs


class Parts:
    """Makes the layers that one layer is expanded into, each of them once.

    When to use: an integer form (`LayerRule.expansion`) is given one. Called with a
    type, a suffix for the name, weights and the type's arguments, it returns the part
    to call. A layer that is shared gets the same parts at each of its calls, as far as
    the calls agree: what has no weights may differ between them.

    Args:
        operation: the layer that is expanded.

    Example:

    >>> def integers_of_scaled(layer, parts, x):
    ...     return parts(keras.layers.Rescaling, scale=layer.factor)(x)
    """

    def __init__(self, operation: Any):
        self.name = operation.name
        self.policy = getattr(operation, "dtype_policy", None)
        self.made: dict[str, Part] = {}
        # Of layers inside of the layer, by their names.
        self.inner: dict[str, Parts] = {}

    def __call__(
        self,
        kind: type,
        suffix: str = "",
        *,
        weights: list | None = None,
        **config: Any,
    ) -> Part:
        name = self.name + suffix
        held = weights is not None or name in self.made
        key = name if held else f"{name} {kind.__name__} {config!r}"
        if key not in self.made:
            layer = kind(name=name, dtype=self.policy, **config)
            self.made[key] = Part(layer, weights)
        return self.made[key]

    def add(self, layer: keras.Layer, weights: list | None) -> Part:
        """Takes a layer that is there already for a part."""
        return self.made.setdefault(layer.name, Part(layer, weights))
