"""Masks that a layer makes itself, where the layer is taken apart."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.core.types import AnyTensor


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class AttachedMask(keras.layers.Layer):
    """Hands a tensor on, with a mask for the layers that read it.

    When to use: `quantize_aware` and `shrink` put it behind what a layer made of layers
    computes, if the layer has a `compute_mask` of its own. Its parts know nothing of
    that mask.

    Example:

    >>> tokens = keras.Input((3,), dtype="int32")
    >>> words = keras.layers.Embedding(9, 2)(tokens)
    >>> padded = AttachedMask()(words, mask=keras.ops.not_equal(tokens, 0))
    >>> model = keras.Model(tokens, keras.layers.GlobalAveragePooling1D()(padded))
    >>> a, b = model(keras.ops.array([[3, 0, 0], [3, 3, 0]])).numpy()
    >>> bool((a == b).all())
    True
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: AnyTensor, mask: AnyTensor = None) -> AnyTensor:
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape
