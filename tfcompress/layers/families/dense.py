"""Layers that multiply with one matrix, and tables."""

from __future__ import annotations

import math
from typing import Any

from keras import layers

from tfcompress.core.equation import Equation
from tfcompress.layers.kernels import EinsumKernel, Kernel
from tfcompress.layers.rules import fill
from tfcompress.layers.sizes import Shape, adapter, size


def dense(layer: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * layer.units + adapter(layer)


def einsum_dense(layer: Any, inputs: list[Shape], output: Shape) -> int:
    # Every letter of the equation is a loop: those of the input, and the kernel's own.
    source, kernel = Equation.of(layer.equation).terms
    own = (n for name, n in zip(kernel, layer.kernel.shape) if name not in source)
    return math.prod(inputs[0]) * math.prod(own) + adapter(layer)


def embedding(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """A lookup; with LoRA, rows of the one factor times the other."""
    if not getattr(layer, "lora_enabled", False):
        return 0
    return math.prod(inputs[0]) * size(layer.lora_embeddings_b)


fill(
    (layers.Dense,),
    flow="compute",
    kernels=(Kernel("kernel"),),
    macs=dense,
    family="dense",
)
fill(
    (layers.EinsumDense,),
    flow="float",
    kernels=(EinsumKernel("kernel"),),
    macs=einsum_dense,
    family="dense",
)
fill(
    (layers.Embedding,),
    flow="lookup",
    kernels=(Kernel("embeddings", (0,), ()),),
    macs=embedding,
    family="embedding",
)
