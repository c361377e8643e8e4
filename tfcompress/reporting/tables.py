"""The rows of a report as markdown and as a terminal table."""

from collections.abc import Callable, Sequence
from typing import Any

from tfcompress.core.tables import table
from tfcompress.exporters.npu import NPUFigures
from tfcompress.reporting.front import FrontPoint, pareto_front

_NONE = "-"


def _bytes(value: int) -> str:
    return f"{value:,}"


def _ratio(value: float) -> str:
    if value < 0.95:  # of files that have grown
        return f"{value:.2g}x"
    return f"{value:.1f}x" if value < 100 else f"{value:.0f}x"


# heading, field of the row, how it is written
_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("model", "name", str),
    ("format", "format", str),
    ("file bytes", "file_size", _bytes),
    ("weight bytes", "weight_size", _bytes),
    ("smaller", "size_ratio", _ratio),
    ("gzip bytes", "gzip_size", _bytes),
    ("smaller (gzip)", "gzip_ratio", _ratio),
    ("zip bytes", "zip_size", _bytes),
    ("entropy bytes", "entropy_size", _bytes),
    ("packed bytes", "packed_size", _bytes),
    ("smaller (packed)", "packed_ratio", _ratio),
    ("sparsity", "sparsity", lambda value: f"{value:.1%}"),
    ("MACs", "macs", _bytes),
    ("integer ops", "integer_coverage", lambda value: f"{value:.0%}"),
    ("on NPU", "npu_share", lambda value: f"{value:.0%}"),
    ("NPU cycles", "cycles", _bytes),
    ("SRAM bytes", "sram", _bytes),
    ("metric", "metric", lambda value: f"{value:.4f}"),
    ("change", "metric_change", lambda value: f"{value:+.4f}"),
    ("latency ms", "latency", lambda value: f"{value:.3f}"),
    ("faster", "latency_ratio", _ratio),
)


def cells(rows: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the written cells; empty columns are left out."""
    used = [c for c in _COLUMNS if any(getattr(row, c[1]) is not None for row in rows)]
    body = [
        [
            _NONE if getattr(row, field) is None else write(getattr(row, field))
            for _, field, write in used
        ]
        for row in rows
    ]
    return [heading for heading, _, _ in used], body


def markdown(rows: Sequence[Any]) -> str:
    """Returns a markdown table, numbers to the right, columns aligned."""
    return table(*cells(rows), names=2)


def npu_cells(npu: NPUFigures) -> tuple[list[str], list[list[str]]]:
    """Returns headings and written cells of the layers on an NPU, in their order."""
    body = [
        [
            one.name or "(other)",
            _bytes(one.cycles),
            f"{one.cycles / npu.cycles:.1%}" if npu.cycles else _NONE,
            _bytes(one.sram),
            _bytes(one.macs),
        ]
        for one in npu.layers
    ]
    body += [[str(one), "on the CPU", _NONE, _NONE, _NONE] for one in npu.left]
    return ["layer", "cycles", "share", "SRAM bytes", "MACs"], body


def candidate_cells(
    front: Sequence[FrontPoint],
) -> tuple[list[str], list[list[str]]]:
    """Returns headings and written cells of candidates, the smallest first."""
    best = pareto_front(front)
    body = [
        [
            point.name,
            "chosen" if point.chosen else "on it" if point in best else "",
            _bytes(point.size),
            f"{point.metric:.4f}",
            _NONE if point.latency is None else f"{point.latency:.3f}",
        ]
        for point in sorted(front, key=lambda point: (point.size, point.name))
    ]
    headings = ["candidate", "front", "bytes", "metric", "latency ms"]
    return headings, body


def candidates(front: Sequence[FrontPoint]) -> str:
    """Returns the candidates of a search as a markdown table."""
    return table(*candidate_cells(front), names=2)


def side_by_side(rows: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """Returns headings and cells with a column for each model, and a row a measure."""
    headings, body = cells(rows)
    first, *rest = (list(line) for line in zip(headings, *body))
    return first, rest


def terminal(rows: Sequence[Any]) -> Any:
    """Returns a `rich` table."""
    from rich.table import Table
    from rich.text import Text

    # A terminal is wide enough for a few models, not for a dozen measures.
    headings, body = side_by_side(rows)
    shown = Table(title="tfcompress report")
    shown.add_column(headings[0], justify="left", no_wrap=True)
    for name in headings[1:]:
        # Text, because a name may hold what rich takes for markup.
        shown.add_column(Text(name), justify="right", overflow="fold")
    for measure, *values in body:
        shown.add_row(measure, *map(Text, values))
    return shown
