"""What an expansion is: a function that says a layer in simpler ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

# `(operation, parts, *args, **kwargs) -> symbolic outputs`, or `None` where the
# operation stays as it is. `args` are those of its call, tensors symbolic.
Expansion = Callable[..., Any]

_expansions: dict[type | str, Expansion] = {}


class Parts:
    """Makes the layers that one layer is expanded into, each of them once.

    Called with a type, a suffix for the name, weights and the type's arguments, it
    returns a function that calls the layer. A layer that is shared gets the same parts
    at each of its calls.
    """

    def __init__(self, operation: Any):
        self.name = operation.name
        self.policy = getattr(operation, "dtype_policy", None)
        self.made: dict[str, keras.Layer] = {}

    def __call__(
        self,
        kind: type,
        suffix: str = "",
        *,
        weights: list | None = None,
        **config: Any,
    ) -> Callable[..., Any]:
        name = self.name + suffix
        if name not in self.made:
            self.made[name] = kind(name=name, dtype=self.policy, **config)
        layer = self.made[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            fresh = not layer.built
            outputs = layer(*args, **kwargs)
            if fresh and weights is not None:
                layer.set_weights(weights)
            return outputs

        return call


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
    return None
