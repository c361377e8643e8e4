"""Weight-only quantization: kernels are integers, and all that flows is float.

There is nothing to place or to take apart here: a layer with rounded kernels computes
what it computed, and attention does so with those of the layers that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from tfcompress.core.graph import Graph, Node
from tfcompress.core.select import walk
from tfcompress.layers import lora
from tfcompress.layers.integer_form import StaysFloat
from tfcompress.layers.rules import families_of
from tfcompress.quantization.composite import QuantizedComposite, kernels_within
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.quantizers import BlockwiseQuantizer, Quantizer
from tfcompress.quantization.wrapper import QuantizedLayer, kernels_with_one_scale

_POINTWISE = (layers.Conv1D, layers.Conv2D)


def reasons_for_floats(
    graph: Graph,
    wanted: Callable[[Any], bool],
    quantizer_of: Callable[[Node], Quantizer],
) -> dict[str, StaysFloat]:
    """Returns why the kernels of wanted layers stay floats, by the layers' names."""
    found = {}
    owners: dict[int, str] = {}
    for node in graph.nodes:
        layer = node.operation
        if not wanted(layer):
            continue
        reason = _reason(layer, quantizer_of(node))
        for _, _, variable in kernels_within(layer):
            owner = owners.setdefault(id(variable), layer.name)
            if owner != layer.name:
                reason = StaysFloat(
                    f"it uses the weights of '{owner}'",
                    "nothing; those of the other layer are rounded",
                )
        if reason is not None:
            found[node.name] = reason
    return found


def with_rounded_kernels(
    graph: Graph,
    quantizer_of: Callable[[Node], Quantizer],
    chosen: Callable[[Any], bool],
) -> Graph:
    """Returns a graph whose chosen layers run with rounded kernels."""

    def wrapped(node: Node) -> dict[str, Any]:
        layer = node.operation
        found = isinstance(layer, keras.Layer) and [*kernels_within(layer)]
        if not found or not chosen(layer):
            return {}
        quantizer = quantizer_of(node)
        blockwise = isinstance(quantizer, BlockwiseQuantizer)
        whole = all(owner is layer for owner, _, _ in found)
        clustered = whole and not blockwise and layer.built
        one_scale: Any = kernels_with_one_scale(layer) if clustered else ()
        kind = QuantizedLayer if whole else QuantizedComposite
        wrapper = kind(layer, quantizer, one_scale, trainable=layer.trainable)
        return {"operation": wrapper, "weights": node.weights or layer.get_weights}

    return graph.with_operations(wrapped)


def is_weight_only(model: keras.Layer) -> bool:
    """Returns whether kernels of a model are rounded, and nothing else is."""
    kinds = [type(layer) for _, layer in walk(model)]
    rounded = any(issubclass(kind, QuantizedLayer) for kind in kinds)
    return rounded and not any(issubclass(kind, FakeQuantize) for kind in kinds)


def is_pointwise(layer: Any) -> bool:
    """Returns whether a convolution multiplies each pixel with one matrix."""
    if not isinstance(layer, _POINTWISE):
        return False
    return math.prod((*layer.kernel_size, *layer.strides, layer.groups)) == 1


def _reason(layer: Any, quantizer: Quantizer) -> StaysFloat | None:
    matrices = [v for v in getattr(layer, "weights", ()) if len(v.shape) > 1]
    if not matrices:
        return None
    if lora.has_lora(layer):
        return StaysFloat(lora.REASON, lora.FIX)
    families = families_of(layer)
    if "recurrent" in families or isinstance(layer, layers.Bidirectional):
        return StaysFloat(
            "LiteRT has no kernel that runs its steps with weights alone in integers",
            "scheme='w8a8' rounds all of it",
        )
    kernels = list(kernels_within(layer))
    if not kernels:
        return StaysFloat(
            "no kernel is known of it", "say where it is by register_layer_rule"
        )
    if families & {"convolution", "depthwise"} and len(kernels[0][2].shape) > 4:
        return StaysFloat("LiteRT has no kernel with integer weights for it", "nothing")
    if not isinstance(quantizer, BlockwiseQuantizer):
        return None
    return _reason_against_blocks(layer, kernels, quantizer)


def _reason_against_blocks(
    layer: Any, kernels: list, quantizer: BlockwiseQuantizer
) -> StaysFloat | None:
    size = quantizer.block_size
    fix = "give it a scheme of its own, such as {'%s': 'w4', '.*': 'w4b%d'}"
    fix %= (layer.name, size)
    convolution = families_of(layer) & {"convolution", "depthwise"}
    if convolution and not is_pointwise(layer):
        return StaysFloat("blocks are those of matrices, and it is none", fix)
    for _, kernel, variable in kernels:
        shape = tuple(variable.shape)
        axes = kernel.reduction_axes(len(shape))
        if not quantizer.blocks_of(shape, axes):
            inputs = math.prod(shape[axis] for axis in axes)
            return StaysFloat(
                f"blocks of {size} do not divide its {inputs} inputs", fix
            )
    return None
