"""The contract of observers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.testing.tools import require, round_trip

_BITS = (4, 8, 16)


def check_observer(observer: Any) -> None:
    """Checks that `observer` finds a range within what was seen, for most of it.

    When to use: in the tests of an `Observer` of your own.

    Args:
        observer: an instance.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    >>> from tfcompress.quantization.calibration.observers import MinMaxObserver
    >>> check_observer(MinMaxObserver())
    """
    name = f"{type(observer).__name__}.range_of()"
    copy = round_trip(observer)
    for kind, values in _values().items():
        counts, edges = np.histogram(values, 256)
        kept = counts.copy(), edges.copy()
        for bits in _BITS:
            found = observer.range_of(counts, edges, bits)
            require(
                isinstance(found, tuple)
                and len(found) == 2
                and all(isinstance(end, float) for end in found),
                f"{name} must be two floats, got {found!r}",
            )
            low, high = found
            least, most = min(edges[0], 0.0), max(edges[-1], 0.0)
            require(
                least <= low <= high <= most,
                f"{name} of {kind} must lie within what was seen and zero, "
                f"[{least:.3g}, {most:.3g}], got [{low:.3g}, {high:.3g}]",
            )
            inside = float(np.mean((values >= min(low, 0)) & (values <= max(high, 0))))
            require(
                inside >= 0.5,
                f"{name} of {kind} with {bits} bits holds {inside:.0%} of the values; "
                "all others are clipped",
            )
            require(
                all(np.array_equal(a, b) for a, b in zip(kept, (counts, edges))),
                f"{name} must leave counts and edges alone",
            )
            require(
                observer.range_of(counts, edges, bits) == found,
                f"{name} must depend on its arguments only, but a second call differs",
            )
            again = copy.range_of(counts, edges, bits)
            require(
                again == found,
                f"{name} rebuilt from its config gives {again} instead of {found}; "
                "get_config must return every argument of __init__",
            )


def _values() -> dict[str, np.ndarray]:
    """Returns values as layers make them."""
    normal = np.random.default_rng(0).normal(size=4096)
    return {
        "values around zero": normal,
        "values above zero": np.maximum(normal, 0.0),
        "values below zero": -np.abs(normal) - 1.0,
        "values with an outlier": np.append(normal, 1000.0),
        "one value": np.full(4096, 3.0),
    }
