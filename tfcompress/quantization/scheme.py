"""Schemes: how many bits weights and activations get."""

from __future__ import annotations

import dataclasses

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.quantization.quantizers import Quantizer, UniformQuantizer


@dataclasses.dataclass(frozen=True)
class QuantizationScheme:
    """Number formats of weights and activations.

    When to use: where a name such as `"w8a8"` does not say enough.

    Args:
        weights: quantizer of kernels.
        activations: bits of activations; only 8 at present.
        inputs: bits of the model's inputs; `None` = as the activations.

    Example:

    >>> QuantizationScheme(UniformQuantizer(8, "tensor")).activations
    8
    """

    weights: Quantizer = dataclasses.field(default_factory=UniformQuantizer)
    activations: int = 8
    inputs: int | None = None


_SCHEMES = {"w8a8": QuantizationScheme}


def get_scheme(identifier: str | QuantizationScheme) -> QuantizationScheme:
    """Returns the scheme that a name or instance means."""
    if isinstance(identifier, QuantizationScheme):
        return identifier
    if isinstance(identifier, str) and identifier in _SCHEMES:
        return _SCHEMES[identifier]()
    raise InvalidArgumentError(
        "Unknown quantization scheme.",
        received=repr(identifier),
        expected=f"one of {', '.join(map(repr, _SCHEMES))} or a QuantizationScheme",
    )
