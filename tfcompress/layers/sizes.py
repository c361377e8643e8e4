"""What formulas of multiply-accumulates have in common.

What is counted are products that one operation multiplies and sums: matrix products
and convolutions. Elementwise products, sums, means, lookups and one-hot encodings count
as none.
"""

from __future__ import annotations

import math
from typing import Any

Shape = tuple[int, ...]


def no_products(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Layers that multiply and sum nothing."""
    return 0


def spatial(layer: Any, shape: Shape) -> Shape:
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return shape[:-1] if last else shape[1:]


def size(variable: Any) -> int:
    return math.prod(variable.shape)


def adapter(layer: Any, kernel: str = "kernel") -> int:
    """Products of the two factors that LoRA adds to a kernel, at every call."""
    if not getattr(layer, "lora_enabled", False):
        return 0
    first, second = (getattr(layer, f"lora_{kernel}_{part}") for part in "ab")
    return size(first) * second.shape[-1]
