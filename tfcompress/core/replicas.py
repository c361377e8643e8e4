"""What replicas of a model tell each other in a training step.

A step runs once per replica, each on its share of the batch. What is computed from the
batch must be exchanged before anything is set by it, so that all go on with the same
and two replicas do what one device does with the whole batch. Outside of a strategy,
these functions give back what they are given.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.core.types import AnyTensor


def from_all(value: AnyTensor) -> AnyTensor:
    """Returns the values of all replicas, along a new first axis."""
    value = ops.expand_dims(value, 0)
    context = _context()
    if context is None:
        return value
    gathered = context.all_gather(value, axis=0)
    return ops.reshape(gathered, (context.num_replicas_in_sync, *value.shape[1:]))


def summed(value: AnyTensor) -> AnyTensor:
    """Returns the sum of `value` over all replicas."""
    context = _context()
    return value if context is None else context.all_reduce("SUM", value)


def are_several() -> bool:
    """Returns whether a step runs on several replicas, and this is one of them.

    >>> are_several()
    False
    """
    return _context() is not None


def _context() -> Any:
    """Returns the context of the replica that is running, if it is one of several."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    several = context is not None and context.num_replicas_in_sync > 1
    return context if several else None
