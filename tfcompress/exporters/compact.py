"""Weights of a SavedModel as what they were made of: bytes and scales, or codes.

They are made of these again when the model is loaded, to the last bit. Where that is
not possible a weight is stored as it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfcompress.quantization.integers.storage import INT4, INT8

_MOST_VALUES = 256
# Smaller weights gain less than the nodes that rebuild them take.
_SMALLEST = 512


Codes = tuple[np.ndarray, Callable[[Any], Any]]
"""Integers of 8 bits, and what makes the values of a tensor of them."""


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
    codes, scale = found
    return codes, lambda stored: _scaled(stored, scale)


def _scaled(codes: Any, scale: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.cast(tf.cast(codes, scale.dtype) * scale, tf.float32)


def _from_codes(values: np.ndarray) -> Codes | None:
    """Half a byte or a byte a weight, as an index into the values that there are."""
    book, codes = np.unique(values.view("uint32"), return_inverse=True)
    if len(book) > _MOST_VALUES:
        return None
    table, flat = book.view("float32"), codes.reshape(-1).astype("uint8")
    if len(book) > 16:
        return flat, lambda stored: _looked_up(stored, table, values.shape)
    even = np.append(flat, np.zeros(flat.size % 2, "uint8"))
    pairs = even[::2] | even[1::2] << 4
    return pairs, lambda stored: _halves(stored, table, values.shape)


def _looked_up(codes: Any, table: np.ndarray, shape: tuple) -> Any:
    import tensorflow as tf

    index = tf.cast(codes, tf.int32)
    return tf.reshape(tf.gather(tf.constant(table), index), shape)


def _halves(packed: Any, table: np.ndarray, shape: tuple) -> Any:
    import tensorflow as tf

    low = tf.bitwise.bitwise_and(packed, tf.constant(15, tf.uint8))
    high = tf.bitwise.right_shift(packed, tf.constant(4, tf.uint8))
    codes = tf.reshape(tf.stack([low, high], axis=-1), [-1])
    return _looked_up(codes[: math.prod(shape)], table, shape)


def _same(one: np.ndarray, other: np.ndarray, tolerance: float = 0.0) -> bool:
    if tolerance:
        return bool(np.all(np.abs(one - other) <= tolerance * np.abs(other)))
    # Minus zero is not zero to a file that has to be the same.
    return bool(np.array_equal(one.view("uint32"), other.view("uint32")))
