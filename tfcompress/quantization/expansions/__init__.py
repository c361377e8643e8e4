"""Layers said in simpler ones: one module for each family of layers."""

from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.expansions import (  # noqa: F401  (they register)
    activations,
    attention,
    convolutions,
    dot_attention,
    einsum,
    embedding,
    encodings,
    images,
    merging,
    normalization,
    operations,
    recurrent,
)
from tfcompress.quantization.expansions.base import expansion, expansion_of

__all__ = ["Parts", "StaysFloat", "expansion", "expansion_of"]
