"""A report as one HTML page, or as one picture."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.core.errors import CompressionError, InvalidArgumentError
from tfcompress.exporters.publishing import staged
from tfcompress.reporting import tables
from tfcompress.reporting.drawing import ReportFigure, bytes_text
from tfcompress.reporting.evidence import Evidence
from tfcompress.reporting.figures import report_figures
from tfcompress.reporting.palette import PLACEHOLDERS, Palette, styled, with_variables
from tfcompress.reporting.rows import Row
from tfcompress.reporting.trust_figures import trust_figures
from tfcompress.trustworthiness import TrustReport

_DPI = 150
# Models that stand beside each other in a table.
_ABREAST = 6


def write_html(
    rows: tuple[Row, ...], evidence: Evidence, filepath: str | os.PathLike
) -> Path:
    """Writes the page; it needs no other file and no network."""
    jinja2 = _required("jinja2")
    with _drawing():
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("tfcompress.reporting", "page"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        text = environment.get_template("report.html").render(_contents(rows, evidence))
    return _write(filepath, text.encode())


def write_png(
    rows: tuple[Row, ...], evidence: Evidence, filepath: str | os.PathLike
) -> Path:
    """Writes all figures of a report below each other as one picture."""
    with _drawing():
        return _write(filepath, _overview(rows, evidence))


def _contents(rows: tuple[Row, ...], evidence: Evidence) -> dict[str, Any]:
    """Returns what the template shows; all of it text, which it escapes."""
    # A page is wide enough for a few models, not for a dozen measures.
    abreast = len(rows) <= _ABREAST
    headings, body = (tables.side_by_side if abreast else tables.cells)(rows)
    trust = evidence.trust
    return {
        "title": rows[0].name,
        "cards": list(_cards(rows, evidence)),
        "headings": headings,
        "body": body,
        "npus": [
            (f"{row.name} on {row.npu.npu}", *tables.npu_cells(row.npu))
            for row in rows
            if row.npu is not None
        ],
        "candidates": tables.candidate_cells(evidence.front),
        "figures": [_inlined(figure) for figure in report_figures(rows, evidence)],
        "trust": trust,
        "trust_figures": []
        if trust is None
        else list(map(_inlined, trust_figures(trust))),
        "measures": [] if trust is None else trust.measures(),
        "classes": [] if trust is None else trust.class_rows(),
        "gallery": [] if trust is None else list(_gallery(trust)),
    }


@dataclasses.dataclass(frozen=True)
class Card:
    """One figure in large letters.

    Attributes:
        value: the figure.
        label: what it is.
        detail: what it comes from.
        tone: "good", "bad" or "".
        subject: of which model.
    """

    value: str
    label: str
    detail: str
    tone: str = ""
    subject: str = ""


def _cards(rows: tuple[Row, ...], evidence: Evidence) -> Iterator[Card]:
    """Yields what is said first, of the smallest artifact."""
    baseline, *others = rows
    trust = evidence.trust
    if others:
        best = min(others, key=lambda row: row.packed_size or row.size)
        yield dataclasses.replace(_size_card(best, baseline), subject=best.name)
        if best.metric_change is not None:
            change = best.metric_change
            tone = "bad" if change < -0.01 else "good" if change >= 0 else ""
            detail = f"{baseline.metric:.4f} → {best.metric:.4f}"
            yield Card(f"{change:+.4f}", "metric", detail, tone, best.name)
        if best.latency_ratio is not None:
            alike = (row for row in rows if row.format == best.format and row.latency)
            peer = next((row for row in alike if row is not best), baseline)
            detail = f"{peer.latency:.3g} → {best.latency:.3g} ms"
            if peer is not baseline:
                detail += f", against {peer.name}"
            tone = "good" if best.latency_ratio > 1 else "bad"
            yield Card(f"{best.latency_ratio:.1f}x", "faster", detail, tone, best.name)
    if trust is not None:
        yield Card(
            f"{trust.agreement:.2%}",
            "same answers",
            f"{len(trust.changed):,} of {trust.samples:,} changed",
            subject=trust.compressed,
        )
        worst = trust.worst_class
        change = 100 * worst.recall.change
        tone = "bad" if change < -2 else ""
        label = "points of recall, worst class"
        yield Card(f"{change:+.1f}", label, worst.name, tone, trust.compressed)


def _size_card(row: Row, baseline: Row) -> Card:
    packed = row.packed_size is not None
    size, ratio = (
        (row.packed_size, row.packed_ratio) if packed else (row.size, row.size_ratio)
    )
    detail = f"{bytes_text(baseline.size)} → {bytes_text(size or 0)}"
    label = "smaller, packed" if packed else "smaller"
    tone = "good" if (ratio or 0) > 1 else "bad"
    return Card(f"{ratio or 0:.1f}x", label, detail, tone)


def _gallery(trust: TrustReport) -> Iterator[dict[str, str]]:
    """Yields the pictures of changed answers."""
    names = [one.name for one in trust.classes]
    for answer in trust.changed:
        if answer.image is None:
            return
        yield {
            "source": _data_address(_png(answer.image), "image/png"),
            "kind": answer.kind,
            "index": f"{answer.index:,}",
            "label": names[answer.label],
            "before": f"{names[answer.original]} {answer.confidence.original:.0%}",
            "after": f"{names[answer.compressed]} {answer.confidence.compressed:.0%}",
        }


def _png(image: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    grey = image.shape[-1] == 1
    shown = np.repeat(image, 3, axis=-1) if grey else image
    imsave(buffer, np.ascontiguousarray(shown), format="png")
    return buffer.getvalue()


def _data_address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _inlined(figure: ReportFigure) -> dict[str, Any]:
    """Returns a figure as SVG that stands in a page, in the page's colours."""
    from markupsafe import Markup

    buffer = io.StringIO()
    with styled(PLACEHOLDERS):
        canvas = _canvas(figure)
        canvas.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A browser knows what SVG is; what is left needs no address.
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text, count=2)
    text = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", text, count=1)
    # Ids are unique in one figure; now they are in the page.
    text = re.sub(r'\bid="', f'id="{figure.name}.', text)
    text = re.sub(r"url\(#", f"url(#{figure.name}.", text)
    text = re.sub(r'xlink:href="#', f'href="#{figure.name}.', text)
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "svg": Markup(with_variables(text)),
    }


_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _canvas(figure: ReportFigure) -> Any:
    from matplotlib.figure import Figure

    canvas = Figure(figsize=figure.size, layout="constrained")
    figure.draw(canvas, PLACEHOLDERS)
    return canvas


def _overview(rows: tuple[Row, ...], evidence: Evidence) -> bytes:
    from matplotlib.figure import Figure

    palette, trust = Palette(), evidence.trust
    shown = [*report_figures(rows, evidence), *(trust_figures(trust) if trust else ())]
    # An inch a third for the title.
    heights = [figure.size[1] + 0.35 for figure in shown]
    with styled(palette):
        canvas = Figure(
            figsize=(shown[0].size[0], sum(heights)),
            layout="constrained",
            facecolor=palette.surface,
        )
        parts = canvas.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)
        for part, figure in zip(parts[:, 0], shown):
            part.suptitle(figure.title, x=0.012, ha="left", color=palette.muted)
            figure.draw(part, palette)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
    _required("matplotlib")
    with warnings.catch_warnings():
        # A name in a script that no font here has is drawn as boxes in a picture; a
        # page leaves the choice of a font to the browser.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def _required(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CompressionError(
            f"A report to look at needs {name}.",
            received="an environment without it",
            fix="pip install 'tfcompress[report]'; `to_markdown` needs nothing",
        ) from error


def _write(filepath: str | os.PathLike, content: bytes) -> Path:
    try:
        path = Path(filepath)
    except TypeError:
        raise InvalidArgumentError(
            "A report is written to a path.",
            received=type(filepath).__name__,
            expected='a path such as "report.html"',
        ) from None
    with staged(path, overwrite=True) as stage:
        stage.write_bytes(content)
    return path
