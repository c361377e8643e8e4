"""What integer kernels do with activation functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfcompress.quantization.primitives import Bounded


@dataclasses.dataclass(frozen=True)
class ActivationKernel:
    """What LiteRT's integer kernel of an activation function does.

    Attributes:
        range: the range that it prescribes for its output.
        nonnegative: whether its output is never below zero.
        clamps: whether it only clips, which kernels of linear operations can do with
            their result: no rounding in between.
        looked_up: whether it is a table of LiteRT's own, of which XNNPACK has no
            integer form.
        sixteen_bits: whether the converter has a form for activations of 16 bits.
    """

    range: tuple[float, float] | None = None
    nonnegative: bool = False
    clamps: bool = False
    looked_up: bool = False
    sixteen_bits: bool = True


# By names of activation functions: all those that have an exact integer kernel.
KERNELS = {
    "linear": ActivationKernel(clamps=True),
    "relu": ActivationKernel(clamps=True, nonnegative=True),
    "relu6": ActivationKernel(clamps=True, nonnegative=True),
    "sigmoid": ActivationKernel((0.0, 255 / 256), nonnegative=True, sixteen_bits=False),
    "softmax": ActivationKernel((0.0, 255 / 256), nonnegative=True, sixteen_bits=False),
    "log_softmax": ActivationKernel((-255 / 16, 0.0), sixteen_bits=False),
    "tanh": ActivationKernel((-1.0, 127 / 128), sixteen_bits=False),
    "exponential": ActivationKernel(nonnegative=True, looked_up=True),
    "gelu": ActivationKernel(looked_up=True, sixteen_bits=False),
    "log": ActivationKernel(looked_up=True, sixteen_bits=False),
    "rsqrt": ActivationKernel(nonnegative=True),
}
_NO_KERNEL = ActivationKernel()
FUSED = frozenset(name for name, kernel in KERNELS.items() if kernel.clamps)

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
    if not isinstance(operation, Bounded):
        return None
    return operation.low, operation.high


def kernel_of(operation: Any) -> ActivationKernel:
    """Returns what the kernel of an operation's activation does, if it has one."""
    return KERNELS.get(activation_name(operation) or "", _NO_KERNEL)


def clamps(operation: Any) -> bool:
    """Returns whether an operation only clips, which the one before it can do."""
    return isinstance(operation, Bounded) or kernel_of(operation).clamps


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
