"""What the numbers in the JSON of a command are measured in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_BYTES = (
    *("size", "gzip_size", "zip_size", "packed_size", "entropy_size", "weight_size"),
    *("original_size", "bytes", "packed_bytes", "max_bytes", "max_packed_bytes"),
    *("peak_memory", "sram", "dram", "flash", "max_sram"),
)
_MILLISECONDS = (
    *("first", "median", "p10", "p90", "latency", "latency_ms", "max_latency_ms"),
)
_SHARES = (
    *("sparsity", "integer_coverage", "agreement", "accuracy", "min_agreement"),
    *("min_integer_coverage", "npu_share"),
)
_UNITS = {
    **dict.fromkeys(_BYTES, "bytes"),
    **dict.fromkeys(_MILLISECONDS, "ms"),
    **dict.fromkeys(_SHARES, "share, 0 to 1"),
    "bits": "bits a weight",
    **dict.fromkeys(("cycles", "max_cycles"), "cycles of the NPU"),
    "clock": "Hz",
    "macs": "multiply-accumulates a sample",
    "max_abs_error": "units of the output",
    "max_error_steps": "quantization steps",
    "samples": "samples",
    **dict.fromkeys(
        ("size_ratio", "gzip_ratio", "packed_ratio", "latency_ratio"),
        "times the baseline's",
    ),
    "metric_change": "units of the metric",
}


def with_units(content: Any) -> Any:
    """Returns what a command prints, and in `units` the unit of each number in it.

    >>> with_units({"size": 12, "name": "a"})
    {'size': 12, 'name': 'a', 'units': {'size': 'bytes'}}
    """
    if isinstance(content, list):
        return [with_units(one) for one in content]
    if not isinstance(content, dict):
        return content
    numbers = dict.fromkeys(_numbers(content))
    units = {name: _UNITS[name] for name in numbers if name in _UNITS}
    return {**content, "units": units} if units else content


def _numbers(content: Any) -> Iterator[str]:
    """Yields the names of the numbers at any depth."""
    if isinstance(content, list):
        for one in content:
            yield from _numbers(one)
    elif isinstance(content, dict):
        for name, value in content.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield name
            yield from _numbers(value)
