"""What all checks use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfcompress.layers import Kernel

#: Kernels of every rank that Keras' layers have, with odd and even sizes.
KERNELS = {
    (24, 16): Kernel("kernel"),
    (3, 3, 8, 16): Kernel("kernel"),
    (3, 3, 8, 1): Kernel("kernel", (-2, -1), ()),
    (5, 7): Kernel("kernel"),
}


def require(condition: Any, message: str) -> None:
    """Raises AssertionError with `message` unless `condition` holds."""
    if not condition:
        raise AssertionError(message)


def round_trip(thing: Any) -> Any:
    """Returns `thing` rebuilt through Keras' serialization."""
    name = type(thing).__name__
    try:
        config = keras.saving.serialize_keras_object(thing)
        copy = keras.saving.deserialize_keras_object(config)
    except Exception as error:
        raise AssertionError(
            f"{name} cannot be rebuilt from its config ({error}); register it with "
            "keras.saving.register_keras_serializable and return every argument of "
            "__init__ from get_config"
        ) from error
    require(
        type(copy) is type(thing) and copy.get_config() == thing.get_config(),
        f"{name} rebuilt from its config differs: {copy.get_config()} instead of "
        f"{thing.get_config()}",
    )
    return copy


def compiled(function: Callable) -> Callable:
    """Returns `function` as it runs inside the step of `fit`."""
    import tensorflow as tf

    # As in the step of `fit`, where Keras turns AutoGraph off.
    return tf.function(function, autograph=False)


def gradients_of(function: Callable, arrays: Any) -> tuple[float, list[Any]]:
    """Returns `function(arrays)`, and its gradient by each of the arrays."""
    import tensorflow as tf

    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, arrays)
    flat = keras.tree.flatten(tensors)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        value = function(tensors)
    # Of what it does not depend on.
    zero = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(value, flat, unconnected_gradients=zero)
    return float(value), [keras.ops.convert_to_numpy(one) for one in gradients]


def dtype_of(tensor: Any) -> str:
    """Returns the name of a tensor's type."""
    return keras.backend.standardize_dtype(tensor.dtype)
