"""Layers as products of smaller ones."""

from tfcompress.low_rank.factorize import factorize

__all__ = [
    "factorize",
]
