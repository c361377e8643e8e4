"""What an expansion is: a function that says a layer in simpler ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.layers import column, rows_of
from tfcompress.layers.integer_form import Expansion, Parts

# The score of what must not be seen: that of Keras. Integers cut it off at the low end
# of the scores' range, far enough below all that is seen (`FakeQuantize.rows`).
MASKED = -1e9

# What layers have that move a window over their input.
_WINDOWS = ("kernel_size", "pool_size", "interpolation")

# Methods that a subclass may override and compute the same.
_DESCRIBING = frozenset(
    ("__init__", "__new__", "__repr__", "build", "get_config", "from_config")
    + ("get_build_config", "build_from_config", "compute_output_shape")
    + ("compute_output_spec", "compute_mask")
)


def nothing(parts: Parts, x: Any, suffix: str = "") -> Any:
    """Returns zeros, as `x - x` is: converters compute that themselves, and fail."""
    return parts(keras.layers.Rescaling, suffix, scale=0.0)(x)


def expansion(*kinds: type | str) -> Callable[[Expansion], Expansion]:
    """Files a function as the integer form of layer types or `keras.ops` names."""
    return column("expansion", *kinds)


def _changed_methods(kind: type, known: type | str) -> set[str]:
    """Returns what a subclass computes in its own way, such as `_compute_attention`."""
    if isinstance(known, str):
        return set()
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
    windows = any(hasattr(operation, name) for name in _WINDOWS)
    if windows and getattr(operation, "data_format", "") == "channels_first":
        return _in_channels_last if _is_of_keras(operation) else None
    row = next((row for row in rows_of(operation) if row.expansion), None)
    # A subclass that computes something else is not what the function knows.
    if row is None or _changed_methods(type(operation), row.layer_type):
        return None
    return row.expansion
