"""Shapes of tensors in Keras 2 models: numbers, but for the size of a batch.

`tf.shape(x)[0] * 4` is computed by layers of a Keras 2 model. Here such numbers are
computed while the model is rebuilt; those that are not known stay `UNKNOWN`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops


class _Unknown:
    def __repr__(self) -> str:
        return "a size that is known when the model runs"


UNKNOWN = _Unknown()


class Sizes(tuple):
    """The shape of a tensor, or a part of one: a single result, though a tuple."""

    __slots__ = ()


def is_unknown(structure: Any) -> bool:
    """Returns whether any number in a structure is not known yet."""
    if isinstance(structure, dict):
        structure = list(structure.values())
    if isinstance(structure, (list, tuple)):
        return any(map(is_unknown, structure))
    return structure is UNKNOWN


def has_tensor(structure: Any) -> bool:
    """Returns whether there is a symbolic tensor in a structure."""
    leaves = keras.tree.flatten(structure)
    return any(isinstance(leaf, keras.KerasTensor) for leaf in leaves)


def sizes_of(tensor: Any) -> Sizes:
    """Returns the shape of a tensor, with `UNKNOWN` where it is free."""
    return Sizes(UNKNOWN if size is None else size for size in tensor.shape)


def as_number(value: Any) -> Any:
    """Returns a tensor that was computed from numbers as numbers again."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(as_number, value))
    if not keras.ops.is_tensor(value):
        return value
    array = np.asarray(ops.convert_to_numpy(value))
    return array.item() if array.ndim == 0 else array


def reshaped(tensor: Any, shape: Any) -> Any:
    """Returns a tensor in another shape, of which one size may be `UNKNOWN`.

    Raises:
        ValueError: if more is unknown than can be found out.
    """
    shape = [shape] if isinstance(shape, int) or shape is UNKNOWN else list(shape)
    free = [i for i, size in enumerate(shape) if size is UNKNOWN]
    open_ends = [
        i for i, size in enumerate(shape) if not is_unknown(size) and size == -1
    ]
    if free and open_ends:
        # The unknown size is that of the batch, so samples tell the other one.
        rest = tuple(tensor.shape)[1:]
        known = math.prod(s for s in shape if not is_unknown(s) and s != -1)
        if free != [0] or len(open_ends) > 1 or None in rest:
            raise ValueError(f"the shape {shape} of a tensor of shape {tensor.shape}")
        shape[open_ends[0]] = math.prod(rest) // known
    elif len(free) > 1:
        raise ValueError(f"the shape {shape} of a tensor of shape {tensor.shape}")
    return ops.reshape(tensor, tuple(-1 if s is UNKNOWN else int(s) for s in shape))
