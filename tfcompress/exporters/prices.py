"""What number formats cost in time in a runtime, where that may speak against them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress.exporters.artifact import Format
from tfcompress.layers import families_of
from tfcompress.quantization.plan import Plan
from tfcompress.quantization.quantizers import BinaryQuantizer, TernaryQuantizer
from tfcompress.quantization.weight_only import is_pointwise

_CONVOLUTIONS = {"convolution", "depthwise"}
# python benchmarks/wide_and_small_latency.py
_HALF_BYTES = "3.5 times the time of 8-bit ones"


def prices_of(exporter: Format, planned: Plan) -> Iterator[tuple[str, str]]:
    """Yields what is expensive in the formats of a plan, and what to do about it."""
    runtime = exporter.limits.runtime
    bits = planned.scheme.activations
    price = exporter.limits.prices.get(bits) if bits else None
    if price and bits in exporter.limits.activations and not planned.impossible:
        yield (
            f"activations of {bits} bits take {price} in {runtime}",
            "use 'w8a8' where its accuracy suffices",
        )
    packed = getattr(exporter, "int4", None)
    if packed is None or packed == "none" or not _has_small_convolutions(planned):
        return
    if packed == "all" or getattr(exporter, "smallest", None) == "raw":
        yield (
            f"4-bit convolutions take {_HALF_BYTES} in {runtime}",
            "leave `int4` at 'exact', which keeps their weights in bytes",
        )
    else:
        yield (
            f"weights of 4-bit convolutions keep a byte each: in half bytes they take "
            f"{_HALF_BYTES} in {runtime}",
            "nothing; or pass int4='all' to `export` if bytes matter more than time",
        )


def _has_small_convolutions(planned: Plan) -> bool:
    return any(
        planned.chosen(node.operation)
        and _CONVOLUTIONS & families_of(node.operation)
        and _is_small(planned.quantizer_of(node))
        and not (planned.scheme.activations is None and is_pointwise(node.operation))
        for node in planned.graph.nodes
    )


def _is_small(quantizer: Any) -> bool:
    """Returns whether kernels have at most 15 values, which are stored in 4 bits."""
    few = isinstance(quantizer, BinaryQuantizer | TernaryQuantizer)
    return few or getattr(quantizer, "num_bits", 8) <= 4
