"""What an expansion is: a function that says a layer in simpler ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

# `(operation, parts, *args, **kwargs) -> symbolic outputs`, or `None` where the
# operation stays as it is. `args` are those of its call, tensors symbolic.
Expansion = Callable[..., Any]

_expansions: dict[type | str, Expansion] = {}


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

    Called with a type, a suffix for the name, weights and the type's arguments, it
    returns the part to call. A layer that is shared gets the same parts at each of
    its calls.
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
        if name not in self.made:
            layer = kind(name=name, dtype=self.policy, **config)
            self.made[name] = Part(layer, weights)
        return self.made[name]

    def add(self, layer: keras.Layer, weights: list | None) -> Part:
        """Takes a layer that is there already for a part."""
        return self.made.setdefault(layer.name, Part(layer, weights))


def expansion(*kinds: type | str) -> Callable[[Expansion], Expansion]:
    """Registers a function as the expansion of layer types or `keras.ops` names."""

    def register(function: Expansion) -> Expansion:
        for kind in kinds:
            _expansions[kind] = function
        return function

    return register


def expansion_of(operation: Any) -> Expansion | None:
    """Returns how an operation is expanded, `None` if it is simple or unknown."""
    if not isinstance(operation, keras.Layer):
        return _expansions.get(type(operation).__name__)
    known: Any = None
    for known in type(operation).__mro__:
        if known in _expansions:
            # A subclass that computes something else is not what the function knows.
            same = type(operation).call is known.call
            return _expansions[known] if same else None
    # Layers of keras.applications that have no public name.
    if "applications" in type(operation).__module__:
        return _expansions.get(f"applications.{type(operation).__name__}")
    return None
