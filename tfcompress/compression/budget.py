"""Budget: what a compressed model may cost, and how far from it a candidate is."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tfcompress.core.arguments import number
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.ethos_u.chips import npu_named

_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1024, "mib": 1024**2}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%|[a-zA-Z]*)\s*")
# The name of a limit, and of the measure that it limits.
COSTS = {
    "max_packed_bytes": "packed_bytes",
    "max_bytes": "bytes",
    "max_latency_ms": "latency_ms",
    "max_cycles": "cycles",
    "max_sram": "sram",
}
# What a number of each limit may be followed by, and how many it then stands for.
_COUNTED: dict[str, dict[str, int]] = {
    "max_latency_ms": {"ms": 1},
    "max_cycles": {"": 1},
}
# Limits of what only the compiler of an NPU tells.
_OF_AN_NPU = ("max_cycles", "max_sram")


@dataclasses.dataclass(frozen=True)
class Measures:
    """What was measured of an artifact.

    Attributes:
        metric: the metric on the validation data.
        bytes: bytes of its files.
        packed_bytes: bytes after `pack`.
        latency_ms: median milliseconds of one call, on one thread. It is measured in
            turns with the baseline and scaled to the baseline's first measurement, so
            that its ratio holds on a busy machine.
        latency_error: how many milliseconds that may be off, in 95 of 100 cases.
        cycles: of the NPU, as its compiler estimates them; None without an NPU.
        sram: bytes of SRAM, likewise.
        npu_share: share of the operators that the NPU computes; what it leaves to the
            CPU is in none of these figures.
    """

    metric: float
    bytes: int
    packed_bytes: int
    latency_ms: float
    latency_error: float = 0.0
    cycles: int | None = None
    sram: int | None = None
    npu_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the compressed model may cost. Give one limit or several.

    When to use: as the `budget` of `compress`.

    Args:
        max_bytes: bytes of the artifact's files: an integer, a text such as
            `"250 kB"`, or a share of the baseline's (the uncompressed model in the
            same format), such as `"25%"`.
        max_packed_bytes: bytes after `pack`, in the same forms; a share refers to the
            baseline's bytes before packing.
        max_latency_ms: milliseconds of one call on this machine, or a share of the
            baseline's.
        max_metric_drop: how much worse the metric may be than the baseline's, in
            units of the metric (0.01 is one point of accuracy); at least 0.
        max_cycles: cycles of the NPU for one call, as its compiler estimates them, or a
            share of the baseline's (the same model, rounded to 8 bits as it is).
        max_sram: bytes of SRAM, in the forms of `max_bytes`.
        npu: for which NPU: "u55-128", "u65-256" ... as in `export(format="ethos_u")`.
            Needed with `max_cycles` and `max_sram`; no board is.

    Raises:
        InvalidArgumentError: if nothing is limited, a limit is out of its range, or
            there is no such NPU.

    Example:

    >>> Budget(max_bytes="250 kB", max_metric_drop=0.01).max_bytes
    250000
    >>> Budget(max_cycles="50%", max_sram="64 kB", npu="ethos-u55-128").npu
    'u55-128'
    """

    max_bytes: int | str | None = None
    max_packed_bytes: int | str | None = None
    max_latency_ms: float | str | None = None
    max_metric_drop: float | None = None
    max_cycles: int | str | None = None
    max_sram: int | str | None = None
    npu: str | None = None

    def __post_init__(self) -> None:
        given = dataclasses.asdict(self)
        npu = given.pop("npu")
        if all(value is None for value in given.values()):
            raise InvalidArgumentError(
                "The budget limits nothing.",
                received="Budget()",
                expected=f"one of {', '.join(given)}, or several",
            )
        self._check_npu(npu, [name for name in _OF_AN_NPU if given[name] is not None])
        for name in COSTS:
            if given[name] is not None:
                value = _limit(name, given[name])
                # A frozen dataclass has no other way to tidy what it was given.
                object.__setattr__(self, name, value)
        drop = self.max_metric_drop
        if drop is not None:
            number(
                drop,
                "`max_metric_drop` is how much worse the metric may be.",
                "[0, inf)",
                "a number >= 0 in units of the metric, such as 0.01",
            )

    def _check_npu(self, npu: Any, limits: list[str]) -> None:
        if npu is not None:
            object.__setattr__(self, "npu", npu_named(npu))
        elif limits:
            raise InvalidArgumentError(
                f"`{limits[0]}` is a limit of an NPU.",
                received="no `npu`",
                expected='the NPU too, such as npu="u55-128"',
            )

    def relative_to(self, baseline: Measures) -> Budget:
        """Returns the budget with shares of the baseline turned into numbers."""
        changes: dict[str, Any] = {}
        for name, measure in COSTS.items():
            value = getattr(self, name)
            if isinstance(value, str):
                # Nobody packs what he did not compress: bytes before are the scale.
                measure = "bytes" if measure == "packed_bytes" else measure
                amount = float(value[:-1]) / 100 * getattr(baseline, measure)
                changes[name] = max(1, int(amount)) if _is_whole(name) else amount
        return dataclasses.replace(self, **changes)

    def limits(self, baseline: Measures) -> dict[str, float]:
        """Returns the limits of costs that are given, as numbers, by their names."""
        absolute = self.relative_to(baseline)
        found = {name: getattr(absolute, name) for name in COSTS}
        return {name: float(v) for name, v in found.items() if v is not None}

    @property
    def target(self) -> str | None:
        """The only target that the budget can be met with; None for any."""
        return None if self.npu is None else "ethos_u"

    @property
    def cost(self) -> str:
        """The measure that is to become small: the first that is limited."""
        limited = (m for n, m in COSTS.items() if getattr(self, n) is not None)
        return next(limited, "packed_bytes")

    @property
    def costs(self) -> tuple[str, ...]:
        """All measures that are limited."""
        return tuple(m for n, m in COSTS.items() if getattr(self, n) is not None)

    def excess(
        self, measures: Measures, baseline: Measures, higher_is_better: bool
    ) -> dict[str, float]:
        """Returns by how much each limit is passed; 0 and below is within it.

        Costs count as a share of their limit. A metric counts as a share of the drop
        that is allowed, but not finer than a hundredth of a unit.

        Args:
            measures: the candidate's.
            baseline: the baseline's.
            higher_is_better: of the metric.
        """
        found = {
            name: getattr(measures, COSTS[name]) / limit - 1
            for name, limit in self.limits(baseline).items()
        }
        if self.max_metric_drop is not None:
            drop = baseline.metric - measures.metric
            drop = drop if higher_is_better else -drop
            beyond = drop - self.max_metric_drop
            # A hair above the limit by the rounding of float32 is not above it.
            beyond = 0.0 if abs(beyond) < 1e-6 else beyond
            found["max_metric_drop"] = beyond / max(self.max_metric_drop, 0.01)
        return found


def _is_whole(name: str) -> bool:
    """Returns whether a limit is of bytes or cycles."""
    return name != "max_latency_ms"


def _limit(name: str, value: Any) -> Any:
    units = _COUNTED.get(name, _UNITS)
    whole = _is_whole(name)
    expected = "a number > 0, or a share of the baseline's such as '25%'"
    if units is _UNITS:
        expected = "a whole number > 0, a text such as '250 kB', or '25%'"
    amount = value
    text = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if text is not None:
        count, unit = float(text[1]), text[2].lower()
        if unit == "%" and 0 < count <= 100:
            return f"{count:g}%"
        if unit in units:
            # Of a byte or a cycle there is no half; of a kilobyte there is.
            rounds = whole and units[unit] > 1
            amount = round(count * units[unit]) if rounds else count
    number(amount, f"`{name}` is out of its range.", "(0, inf)", expected)
    if whole and amount != int(amount):
        raise InvalidArgumentError(
            f"`{name}` counts what has no halves.",
            received=repr(value),
            expected="a whole number > 0, or a share of the baseline's such as '25%'",
        )
    return int(amount) if whole else float(amount)
