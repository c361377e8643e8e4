"""Weights of a SavedModel as what they were made of: bytes and scales, or codes.

They are made of these again when the model is loaded, to the last bit. Where that is
not possible a weight is stored as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfcompress.quantization.integers.storage import INT4, INT8

_MOST_VALUES = 256
# Smaller weights gain less than the nodes that rebuild them take.
_SMALLEST = 512


class Codes(NamedTuple):
    """How a weight is stored smaller.

    Attributes:
        parts: what is stored, by name: "integers" that a scale is multiplied with;
            or "codes", a byte each, or "pairs" of them, half a byte each, which are
            places in "values".
        make: makes the weight of tensors with these names.
    """

    parts: dict[str, np.ndarray]
    make: Callable[[dict[str, Any]], Any]


def as_codes(values: np.ndarray) -> Codes | None:
    """Returns how a weight is stored smaller; None if it is not.

    Args:
        values: the weight.
    """
    if values.dtype != np.float32 or values.size < _SMALLEST:
        return None
    return _from_bytes(values) or _from_codes(values)


def as_integers(
    values: np.ndarray,
    channel_axis: int = -1,
    tolerance: float = 0.0,
    scales: tuple[str, ...] = ("float32", "float64"),
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns 8-bit integers and their scale, if their product is `values`.

    Args:
        values: a float32 array.
        channel_axis: the axis along which scales may differ.
        tolerance: largest relative difference; with 0 it is the same to the last bit.
        scales: dtypes that the scale may have, the preferred one first. The product
            with a float64 scale is rounded to float32, as `finalize` computes kernels.

    Returns:
        Integers, and one scale per tensor or channel with as many axes as `values`.
    """
    others = tuple(a for a in range(values.ndim) if a != channel_axis % values.ndim)
    for dtype, axes in itertools.product(scales, (None, others)):
        peaks = np.abs(values).max(axis=axes, keepdims=True).astype("float64")
        for largest in (INT8, INT4):
            scale = (np.where(peaks > 0, peaks, 1) / largest).astype(dtype)
            codes = np.round(values / scale)
            if np.abs(codes).max() <= largest:
                integers = codes.astype("int8")
                product = (integers.astype(dtype) * scale).astype("float32")
                if _same(product, values, tolerance):
                    return integers, scale
    return None


def _from_bytes(values: np.ndarray) -> Codes | None:
    """One byte a weight and a scale per tensor or channel, if that gives it exactly."""
    found = as_integers(values)
    if found is None:
        return None
    integers, scale = found
    parts = {"integers": integers}
    return Codes(parts, lambda stored: _scaled(stored["integers"], scale))


def _scaled(integers: Any, scale: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.cast(tf.cast(integers, scale.dtype) * scale, tf.float32)


def _from_codes(values: np.ndarray) -> Codes | None:
    """Half a byte or a byte a weight, as a place among the values that there are."""
    book, places = np.unique(values.view("uint32"), return_inverse=True)
    if len(book) > _MOST_VALUES:
        return None
    codes = places.reshape(values.shape).astype("uint8")
    parts = {"values": book.view("float32")}
    even = [axis for axis in range(codes.ndim) if codes.shape[axis] % 2 == 0]
    if len(book) > 16 or not even:
        return Codes(
            parts | {"codes": codes},
            lambda stored: _looked_up(stored["codes"], stored["values"]),
        )
    axis = even[-1]
    first = np.take(codes, range(0, codes.shape[axis], 2), axis)
    second = np.take(codes, range(1, codes.shape[axis], 2), axis)
    return Codes(
        parts | {"pairs": first | second << 4},
        lambda stored: _looked_up(
            _unpaired(stored["pairs"], axis, codes.shape), stored["values"]
        ),
    )


def _looked_up(codes: Any, values: Any) -> Any:
    import tensorflow as tf

    return tf.gather(values, tf.cast(codes, tf.int32))


def _unpaired(pairs: Any, axis: int, shape: tuple) -> Any:
    import tensorflow as tf

    low = tf.bitwise.bitwise_and(pairs, tf.constant(15, tf.uint8))
    high = tf.bitwise.right_shift(pairs, tf.constant(4, tf.uint8))
    return tf.reshape(tf.stack([low, high], axis=axis + 1), shape)


def _same(one: np.ndarray, other: np.ndarray, tolerance: float = 0.0) -> bool:
    if tolerance:
        return bool(np.all(np.abs(one - other) <= tolerance * np.abs(other)))
    # Minus zero is not zero to a file that has to be the same.
    return bool(np.array_equal(one.view("uint32"), other.view("uint32")))
