"""distribute: `fit` on several machines, where Keras' own stops at the first batch."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.core.errors import InvalidArgumentError, warn


def distribute(strategy: Any) -> Any:
    """Makes Keras' `fit` work under a `MultiWorkerMirroredStrategy`.

    When to use: on the strategy, before the model is built in its scope, if a job
    trains on several machines. On one machine `MirroredStrategy` works as it is.

    Source: Keras 3.15, `fit` under this strategy, asks `strategy.reduce` twice for
    what TensorFlow refuses: the mean of the first batch, a tuple (to learn shapes from
    it), and the means over axis 0 of metrics, which are numbers and have no axis. The
    strategy's `reduce` is given these two answers; everything else is TensorFlow's.
    Nothing of Keras is changed.

    Args:
        strategy: a `tf.distribute.MultiWorkerMirroredStrategy`. Any other is returned
            as it is, so that one script serves one machine and several.

    Returns:
        The same strategy. A `CompressionWarning` says so, once, when a newer Keras
        asks for neither of the two and the call can go.

    Raises:
        InvalidArgumentError: if `strategy` is no strategy of TensorFlow.

    Example:

    >>> import tensorflow as tf
    >>> strategy = distribute(tf.distribute.MultiWorkerMirroredStrategy())
    >>> with strategy.scope():
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    >>> strategy.num_replicas_in_sync
    1
    """
    import tensorflow as tf

    if not isinstance(strategy, tf.distribute.Strategy):
        raise InvalidArgumentError(
            "`strategy` is no strategy.",
            received=repr(strategy),
            expected="tf.distribute.MultiWorkerMirroredStrategy()",
        )
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if several and not isinstance(strategy.reduce, _Reduce):
        strategy.reduce = _Reduce(strategy)
    return strategy


class _Reduce:
    """Stands in for `strategy.reduce` and takes the means that Keras asks for.

    Attributes:
        needed: what Keras asked for that TensorFlow refuses, "batch" and "numbers".
    """

    def __init__(self, strategy: Any):
        self.strategy = strategy
        self.reduce = strategy.reduce
        self.needed: set[str] = set()
        self._told = False

    def __call__(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        if isinstance(value, tuple | list | dict):
            # Only shapes are wanted, and workers' batches may differ in size.
            self.needed.add("batch")
            return keras.tree.map_structure(self._first, value)
        if len(self._first(value).shape) == 0:
            if axis == 0:
                self.needed.add("numbers")
                axis = None
            elif not self.needed:
                self._say_it_can_go()
        return self.reduce(reduce_op, value, axis)

    def _first(self, value: Any) -> Any:
        return self.strategy.experimental_local_results(value)[0]

    def _say_it_can_go(self) -> None:
        if not self._told:
            self._told = True
            warn(
                f"Keras {keras.version()} trains under MultiWorkerMirroredStrategy by "
                "itself. What to do: leave tfcompress.distribute out."
            )
