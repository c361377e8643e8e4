"""What integer kernels do with activation functions."""

from __future__ import annotations

from typing import Any

import keras

# Kernels of linear operations can clamp their result: no rounding in between.
FUSED = frozenset({"linear", "relu", "relu6"})

# Scales that LiteRT's kernels prescribe for outputs.
FIXED_RANGES = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}

# Without an integer kernel of its own, but a product of two that have one.
GATED = {"silu": "sigmoid", "swish": "sigmoid"}

NONNEGATIVE = frozenset(
    {"relu", "relu6", "sigmoid", "softmax", "softplus", "exponential"}
)


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
    function = getattr(operation, "activation", None)
    if isinstance(function, keras.Layer):
        return activation_name(function)
    return getattr(function, "__name__", None)
