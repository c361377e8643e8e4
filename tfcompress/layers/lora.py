"""LoRA-enabled layers: their kernel is a sum, which no variable holds."""

from __future__ import annotations

import keras

from tfcompress.core.select import Filters, exclude, matches, walk

REASON = "LoRA makes the kernel a sum of a frozen and a trained one"
FIX = "merge them first: docs/training_at_scale.md shows how"


def has_lora(layer: keras.Layer) -> bool:
    """Returns whether `layer.enable_lora` was called."""
    return bool(getattr(layer, "lora_enabled", False))


def lora_variables(model: keras.Model) -> set[int]:
    """Returns the `id` of all variables of LoRA-enabled layers."""
    return {
        id(variable)
        for _, layer in walk(model)
        if has_lora(layer)
        for variable in layer.variables
    }


def leave_out_lora(model: keras.Model, filters: Filters, what: str) -> None:
    """Names the LoRA-enabled layers that cannot be compressed.

    Args:
        model: the model that is trained.
        filters: which layers the user asked for; `None` = no particular ones.
        what: what they are not, such as "pruned".

    Raises:
        UnsupportedLayerError: if `filters` ask for one; otherwise they are named in a
            `CompressionWarning`.
    """
    names = [
        path
        for path, layer in walk(model)
        if has_lora(layer) and matches(path, layer, filters)
    ]
    if names:
        exclude(names, what, REASON, FIX, asked_for=filters is not None)
