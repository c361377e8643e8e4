"""Embeddings without their masks, which are nodes of their own by then."""

from __future__ import annotations

from typing import Any

from keras import layers

from tfcompress.layers.integer_form import Parts
from tfcompress.quantization.expansions.base import expansion


@expansion(layers.Embedding)
def without_mask(layer: Any, parts: Parts, tokens: Any, **_: Any) -> Any:
    """Sees to it that no layer behind it meets a mask that it does not expect."""
    if not layer.mask_zero:
        return None
    config = {**layer.get_config(), "mask_zero": False}
    return parts.add(type(layer).from_config(config), layer.get_weights())(tokens)
