"""What an expansion is: a function that says a layer in simpler ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

# `(operation, parts, *args, **kwargs) -> symbolic outputs`, or `None` where the
# operation stays as it is. `args` are those of its call, tensors symbolic.
Expansion = Callable[..., Any]

# The score of what must not be seen: that of Keras. Integers cut it off at the low end
# of the scores' range, far enough below all that is seen (`FakeQuantize.rows`).
MASKED = -1e9

_expansions: dict[type | str, Expansion] = {}
# What layers have that move a window over their input.
_WINDOWS = ("kernel_size", "pool_size", "interpolation")

# Methods that a subclass may override and compute the same.
_DESCRIBING = frozenset(
    ("__init__", "__new__", "__repr__", "build", "get_config", "from_config")
    + ("get_build_config", "build_from_config", "compute_output_shape")
    + ("compute_output_spec", "compute_mask")
)


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
    its calls, as far as the calls agree: what has no weights may differ between them.
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


def nothing(parts: Parts, x: Any, suffix: str = "") -> Any:
    """Returns zeros, as `x - x` is: converters compute that themselves, and fail."""
    return parts(keras.layers.Rescaling, suffix, scale=0.0)(x)


def expansion(*kinds: type | str) -> Callable[[Expansion], Expansion]:
    """Registers a function as the expansion of layer types or `keras.ops` names."""

    def register(function: Expansion) -> Expansion:
        for kind in kinds:
            _expansions[kind] = function
        return function

    return register


def _changed_methods(kind: type, known: type) -> set[str]:
    """Returns what a subclass computes in its own way, such as `_compute_attention`."""
    between = kind.__mro__[: kind.__mro__.index(known)]
    return {
        name
        for cls in between
        for name, value in vars(cls).items()
        if callable(value) and hasattr(known, name) and name not in _DESCRIBING
    }


def _is_of_keras(layer: keras.Layer) -> bool:
    return type(layer).__module__.startswith("keras.")


def _in_channels_last(layer: Any, parts: Parts, x: Any, **kwargs: Any) -> Any:
    """Integer kernels have their channels last, and so have their exact sums."""
    rank = len(x.shape)
    config = {**layer.get_config(), "data_format": "channels_last"}
    turned = parts.add(type(layer).from_config(config), layer.get_weights())
    outputs = turned(ops.transpose(x, (0, *range(2, rank), 1)), **kwargs)
    return ops.transpose(outputs, (0, rank - 1, *range(1, rank - 1)))


def expansion_of(operation: Any) -> Expansion | None:
    """Returns how an operation is expanded, `None` if it is simple or unknown."""
    if not isinstance(operation, keras.Layer):
        return _expansions.get(type(operation).__name__)
    windows = any(hasattr(operation, name) for name in _WINDOWS)
    if windows and getattr(operation, "data_format", "") == "channels_first":
        return _in_channels_last if _is_of_keras(operation) else None
    known: Any = None
    for known in type(operation).__mro__:
        if known in _expansions:
            # A subclass that computes something else is not what the function knows.
            changes = _changed_methods(type(operation), known)
            return None if changes else _expansions[known]
    # Layers of keras.applications that have no public name.
    if "applications" in type(operation).__module__:
        return _expansions.get(f"applications.{type(operation).__name__}")
    return None
