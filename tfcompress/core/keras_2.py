"""What models of Keras 2 compute and Keras 3 does not, as they are saved and loaded."""

from __future__ import annotations

import keras
from keras import ops

from tfcompress.core.registry import PACKAGE
from tfcompress.core.types import AnyTensor


@keras.saving.register_keras_serializable(package=PACKAGE)
def hard_sigmoid_of_keras_2(x: AnyTensor) -> AnyTensor:
    """Returns `0.2 x + 0.5`, cut off at 0 and 1, which Keras 2 calls hard_sigmoid.

    When to use: in models of Keras 2. The hard_sigmoid of Keras 3 is `x / 6 + 0.5`.

    Example:

    >>> hard_sigmoid_of_keras_2(ops.array([-3.0, 0.0, 9.0])).numpy().tolist()
    [0.0, 0.5, 1.0]
    """
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)
