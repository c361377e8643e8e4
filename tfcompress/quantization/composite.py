"""QuantizedComposite: a layer that holds others, such as attention, rounded."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import keras

from tfcompress.core.registry import PACKAGE
from tfcompress.core.select import walk
from tfcompress.layers import Kernel, fill, kernels_of
from tfcompress.layers.rules import HeldCall, rule_of
from tfcompress.quantization.wrapper import QuantizedLayer


def kernels_within(layer: keras.Layer) -> Iterator[tuple[Any, Kernel, Any]]:
    """Yields layer, kernel and variable for the kernels of a layer and its parts.

    Args:
        layer: a built layer.
    """
    seen: set[int] = set()
    for part in (layer, *(part for _, part in walk(layer))):
        for kernel, variable in kernels_of(part):
            if id(variable) not in seen:
                seen.add(id(variable))
                yield part, kernel, variable


@keras.saving.register_keras_serializable(package=PACKAGE)
class QuantizedComposite(QuantizedLayer):
    """Runs a layer with the kernels of the layers that it holds rounded.

    When to use: weight-only schemes wrap attention in it, which stays one layer: what
    flows inside of it has no range.

    Args:
        layer: the layer.
        quantizer: as of `QuantizedLayer`.
        one_scale: likewise.
        frozen: likewise.

    Example:

    >>> attention = keras.layers.MultiHeadAttention(2, 16, name="attention")
    >>> x = keras.ops.ones((1, 3, 32))
    >>> QuantizedComposite(attention, "uniform")(x, x).shape
    TensorShape([1, 3, 32])
    """

    def parts(self) -> list[tuple[Any, Kernel, Any]]:
        return list(kernels_within(self.layer))

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self.run(inputs, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Keras takes no tensors beside options in `**kwargs`: tensors go by position.
        names = list(inspect.signature(self.layer.call).parameters)
        given = {**dict(zip(names, args)), **kwargs}
        tensors = [n for n in names if hasattr(given.get(n), "shape")]
        if any(name in kwargs for name in tensors):
            count = 1 + names.index(tensors[-1])
            args = tuple(given.get(name) for name in names[:count])
            kwargs = {n: v for n, v in kwargs.items() if n not in names[:count]}
        if not self.built:
            if not self.layer.built:
                self.layer(*args, **kwargs)  # which knows what its shapes are called
            self.build()
        return super().__call__(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def get_build_config(self) -> dict:
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict) -> None:
        if config.get("layer") and not self.layer.built:
            self.layer.build_from_config(config["layer"])
        self.build()


def _whole(layer: Any, inputs: list) -> list[HeldCall]:
    """What it holds; attention reads a query and a value, and perhaps masks."""
    rule = rule_of(layer.layer)
    attends = rule is not None and rule.family == "attention"
    return [(1, layer.layer, inputs[:2] if attends else inputs)]


fill((QuantizedComposite,), holds=_whole)
