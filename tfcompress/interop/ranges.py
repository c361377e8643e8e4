"""Quantization as TFMOT left it: `quantize_aware` with the ranges that it found."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np

from tfcompress.core.errors import warn
from tfcompress.core.graph import trace
from tfcompress.quantization.fake_quantize import FakeQuantize, rounded_layer
from tfcompress.quantization.quantize import quantize_aware
from tfcompress.quantization.quantizers import UniformQuantizer
from tfcompress.quantization.scheme import QuantizationScheme

# As if so many batches had been seen: a moving average then moves as TFMOT's does.
_SEEN = 1000.0


def with_ranges(model: keras.Model, quantized: dict[str, Any]) -> keras.Model:
    """Returns the quantization-aware model with the ranges that TFMOT found.

    Args:
        model: the plain model.
        quantized: of each layer that TFMOT quantized, its name and what the wrapper
            knew: ranges `before_activation` and `after`, whether its kernel is
            `quantized` and with how many `scales`.
    """
    result = quantize_aware(
        model, _schemes(model, quantized), _filters(model, quantized)
    )
    read_by = _producers(result)
    missing = []
    for layer in result.layers:
        if not isinstance(layer, FakeQuantize) or layer.fixed_range is not None:
            continue
        found = _range_of(layer, read_by[layer.name], quantized)
        if found is None:
            missing.append(layer.name)
        else:
            _set(layer, *found)
    if missing:
        warn(
            f"TFMOT kept no range for what passes through {', '.join(missing)}; fit "
            "the model for a few steps before you export it."
        )
    return result


def _schemes(model: keras.Model, quantized: dict[str, Any]) -> Any:
    """Returns a scheme for each layer whose kernel TFMOT gave a single scale."""
    single = QuantizationScheme(UniformQuantizer(8, granularity="tensor"))
    # Of one output channel both are the same.
    names = [
        layer.name
        for layer in model.layers
        if quantized.get(layer.name, {}).get("scales") == 1
    ]
    if not names:
        return "w8a8"
    return {f"^{re.escape(name)}$": single for name in names}


def _filters(model: keras.Model, quantized: dict[str, Any]) -> Any:
    """Returns which layers to quantize: None for all, as after `quantize_model`."""
    left_out = [
        layer.name
        for layer in model.layers
        if layer.weights and not quantized.get(layer.name, {}).get("quantized")
    ]
    if not left_out:
        return None
    return lambda layer: quantized.get(layer.name, {}).get("quantized", False)


def _producers(model: keras.Model) -> dict[str, list[str]]:
    """Returns the names of what each layer reads, inputs of the model among them."""
    graph = trace(model)
    made_by = {tensor: tensor.name for tensor in graph.input_tensors}
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        made_by |= dict.fromkeys(node.output_tensors, node.name)
        found.setdefault(node.name, []).extend(made_by[t] for t in node.inputs)
    return found


def _range_of(
    layer: FakeQuantize, producers: list[str], quantized: dict[str, Any]
) -> tuple | None:
    """Returns the range that TFMOT has for what flows through this layer."""
    owner = rounded_layer(layer.name)
    # Tensors that share a range have that of what they are joined in.
    for name in dict.fromkeys([owner, *producers]):
        entry = quantized.get(name)
        if entry is None:
            continue
        found = entry.get("after")
        if name in producers and entry.get("before_activation"):
            found = entry["before_activation"]
        if found:
            return tuple(found)
    return None


def _set(layer: FakeQuantize, low: float, high: float) -> None:
    if low < 0:
        # TFMOT's averages begin at -6, and after a ReLU too take long to reach zero.
        layer.nonnegative = False
    layer.ranges.assign(np.tile(np.array([[low, high]], "float32"), (layer.sites, 1)))
    layer.batches.assign(np.full(layer.sites, _SEEN, "float32"))
