"""Whether operations run now, or become a part of a graph."""


def runs_at_once() -> bool:
    """Returns whether operations run as they are called.

    >>> runs_at_once()
    True
    """
    import tensorflow as tf

    return bool(tf.executing_eagerly())
