"""How operations run: as they are called, or as a part of a graph in some order."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def runs_at_once() -> bool:
    """Returns whether operations run as they are called.

    >>> runs_at_once()
    True
    """
    import tensorflow as tf

    return bool(tf.executing_eagerly())


def sketch() -> AbstractContextManager:
    """Has operations be written down and not run, for the shapes of their results.

    >>> import keras
    >>> with sketch():
    ...     keras.ops.ones((2, 10**12)).shape
    TensorShape([2, 1000000000000])
    """
    import tensorflow as tf

    return tf.Graph().as_default()


def after(*tensors: Any) -> AbstractContextManager:
    """Has a graph begin what stands within when it has computed `tensors`.

    A graph does at the same time what does not depend on each other, and holds what
    lies between for all of it.

    >>> with after():
    ...     pass
    """
    import tensorflow as tf

    return tf.control_dependencies(tensors)
