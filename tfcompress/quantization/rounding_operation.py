"""Rounding of activations as the one operation that converters know."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from tfcompress.core.types import AnyTensor


def fake_quantized(
    inputs: AnyTensor, low: Any, high: Any, num_bits: int, narrow_range: bool
) -> AnyTensor:
    """Returns float32 numbers rounded to integers between two ends.

    As `keras.quantizers.fake_quant_with_min_max_vars` does, without the four operations
    that this puts around: a deep model has hundreds of them.

    Args:
        inputs: what to round, in float32.
        low: the smallest number.
        high: the largest number.
        num_bits: bits of the integers.
        narrow_range: whether integers begin at 1.

    >>> float(fake_quantized(ops.array([1.004]), 0.0, 2.55, 8, False)[0])
    1.0
    """
    import tensorflow as tf

    return tf.quantization.fake_quant_with_min_max_vars(
        inputs, low, high, num_bits=num_bits, narrow_range=narrow_range
    )


def kept_apart(inputs: AnyTensor) -> AnyTensor:
    """Returns `inputs` after an operation that changes nothing.

    The converter takes two roundings in a row for one, unless integers are computed
    between them: here the largest of one number.
    """
    shape = inputs.shape
    image = ops.reshape(inputs, (-1, 1, math.prod(shape[1:-1]), shape[-1]))
    pooled = ops.max_pool(image, 1, 1, data_format="channels_last")
    return ops.reshape(pooled, (-1, *shape[1:]))
