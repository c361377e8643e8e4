"""What touches every weight in each step: arrays from codes, and sums over codes.

Keras' `take` and `bincount` read the codes two more times, to allow negative indices
and to find the largest; TensorFlow's own functions do not.
"""

from __future__ import annotations

from typing import Any

from keras import ops

# What finding a row of a table costs, in units of what writing a number of it costs.
_LOOKUP = 4
_LARGEST_GROUP = 8


def best_group(size: int, base: int) -> int:
    """Returns how many codes to look up at once so that it costs least.

    Looking up three values in a row costs as much as one, but the table then has a row
    for each of the `base ** group` combinations.

    >>> best_group(235_200, 17), best_group(1000, 17), best_group(1000, 2)
    (3, 2, 5)
    """
    return min(
        range(1, _LARGEST_GROUP + 1),
        key=lambda group: _LOOKUP * size / group + group * base**group,
    )


def grouped(codes: Any, group: int, base: int) -> Any:
    """Returns one number for each `group` of codes, their digits to `base`."""
    missing = -codes.shape[0] % group
    if missing:
        codes = ops.pad(codes, (0, missing))
    numbers = ops.cast(codes[0::group], "int32")
    for position in range(1, group):
        numbers = numbers * base + ops.cast(codes[position::group], "int32")
    return numbers


def look_up(values: Any, numbers: Any, group: int, size: int) -> Any:
    """Returns for each of `size` codes its value; `numbers` are the codes, grouped."""
    import tensorflow as tf

    base = values.shape[0]
    digits = []
    for position in range(group):
        shape = (base**position, base, base ** (group - 1 - position))
        digit = ops.broadcast_to(ops.reshape(values, (1, base, 1)), shape)
        digits.append(ops.reshape(digit, (-1,)))
    table = ops.stack(digits, axis=-1)
    numbers = ops.convert_to_tensor(numbers)
    found = ops.reshape(tf.gather_nd(table, numbers[:, None]), (-1,))
    return found if found.shape[0] == size else found[:size]


def sums_by_code(values: Any, codes: Any, base: int) -> Any:
    """Returns for each code below `base` the sum of `values` at its places."""
    import tensorflow as tf

    codes = ops.convert_to_tensor(codes)
    values = ops.reshape(ops.cast(values, "float32"), (-1,))
    return tf.raw_ops.DenseBincount(input=codes, size=base, weights=values)


def counts_by_code(codes: Any, base: int) -> Any:
    """Returns how often each code below `base` occurs, as int32."""
    import tensorflow as tf

    none = ops.zeros((0,), "int32")
    return tf.raw_ops.DenseBincount(input=codes, size=base, weights=none)
