"""What integer kernels do with activation functions."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.quantization.primitives import Bounded

# Kernels of linear operations can clamp their result: no rounding in between.
FUSED = frozenset({"linear", "relu", "relu6"})

# The converter leaves these in float where an activation is fused into them.
NEVER_FUSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)

# Scales that LiteRT's kernels prescribe for outputs.
FIXED_RANGES = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "log_softmax": (-255 / 16, 0.0),
    "tanh": (-1.0, 127 / 128),
}

NONNEGATIVE = frozenset({"relu", "relu6", "sigmoid", "softmax", "exponential", "rsqrt"})

# Names of the activation functions that LiteRT has an exact integer kernel for.
INTEGER = FUSED | set(FIXED_RANGES) | {"exponential", "gelu", "log", "rsqrt"}

# Operations of `keras.ops`, and layers, that are activations.
_OPERATIONS = {
    "Exp": "exponential",
    "Gelu": "gelu",
    "GuardedLog": "log",
    "Log": "log",
    "LogSoftmax": "log_softmax",
    "Rsqrt": "rsqrt",
}


def bounds_of(operation: Any) -> tuple[float, float] | None:
    """Returns the ends that an operation clips to, and the rounding behind it."""
    found = isinstance(operation, Bounded)
    return (operation.low, operation.high) if found else None


def fixed_range(operation: Any) -> tuple[float, float] | None:
    """Returns the range that kernels prescribe for an operation's output, if any."""
    return FIXED_RANGES.get(activation_name(operation) or "")


def clamps(operation: Any) -> bool:
    """Returns whether an operation only clips, which the one before it can do."""
    return isinstance(operation, Bounded) or activation_name(operation) in FUSED


def activation_name(operation: Any) -> str | None:
    """Returns the name of the activation that a layer applies, if it has one.

    Example:

    >>> activation_name(keras.layers.Dense(2, activation="relu"))
    'relu'
    >>> activation_name(keras.layers.ReLU(max_value=6.0))
    'relu6'
    """
    if isinstance(operation, keras.layers.ReLU):
        plain = not operation.negative_slope and not operation.threshold
        if plain and operation.max_value in (None, 6):
            return "relu" if operation.max_value is None else "relu6"
        return "clipped_relu"
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    if type(operation).__name__ in _OPERATIONS:
        return _OPERATIONS[type(operation).__name__]
    function = getattr(operation, "activation", None)
    if isinstance(function, keras.Layer):
        return activation_name(function)
    return getattr(function, "__name__", None)
