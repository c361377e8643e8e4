"""The HTML page: whole, alone, and safe whatever things are called."""

import html.parser
import io
import re
import sys

import pytest
from PIL import Image

from tests.reporting.pages import FIGURES, HOSTILE
from tfcompress.core.errors import (
    CompressionError,
    ExportError,
    InvalidArgumentError,
)
from tfcompress.reporting import Evidence, FrontPoint, Report, Row

VOID = {"meta", "img", "br", "hr", "link", "input"}
BARE = Report((Row("model", "keras", 4000, 3000),))


class Reader(html.parser.HTMLParser):
    """Reads a page; a tag that is not closed where it should be is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.addresses, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {name}> runs code"
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.addresses.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def test_every_figure_is_there_once(read):
    figures = [
        attrs["id"] for tag, attrs in read.tags if tag == "figure" and "id" in attrs
    ]
    assert figures == FIGURES
    assert sum(tag == "svg" for tag, _ in read.tags) == len(FIGURES)
    assert sorted(set(read.ids)) == sorted(read.ids)
    for section in ("models", "trust", "changed"):
        assert section in read.ids


def test_nothing_comes_from_elsewhere(read, text):
    assert len(read.addresses) > 3
    for address in read.addresses:
        assert address.startswith(("#", "data:image/png;base64,")), address
    assert "://" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@import" not in text
    policy = [attrs for tag, attrs in read.tags if "http-equiv" in attrs]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_references_inside_of_figures_are_met(read, text):
    asked = set(re.findall(r"url\(#([^)]+)\)", text))
    asked |= {address[1:] for address in read.addresses if address[0] == "#"}
    assert asked
    assert asked <= set(read.ids)


def test_names_are_text_and_nothing_else(read):
    assert not any(tag == "script" for tag, _ in read.tags)
    words = "".join(read.words)
    # Title, table, candidates, classes; drawings have it shortened.
    assert words.count(HOSTILE) > 12
    assert "</svg><script" in words
    alternatives = [attrs["alt"] for tag, attrs in read.tags if tag == "img"]
    assert any(HOSTILE in alternative for alternative in alternatives)


def test_what_is_said_first(read):
    words = " ".join(" ".join(read.words).split())
    assert "4.4x smaller 4.00 kB → 900 B b.tflite" in words
    assert "-0.0100 metric 0.9000 → 0.8900 b.tflite" in words
    assert "2.0x faster 0.4 → 0.2 ms b.tflite" in words
    assert "75.00% same answers 2 of 8 changed" in words
    assert "FAILED on 8 samples: top-1 agreement is 0.7500, below 0.99." in words


def test_changed_answers_are_shown(read):
    pictures = [attrs["src"] for tag, attrs in read.tags if tag == "img"]
    assert len(pictures) == 2
    kinds = [attrs.get("class") for tag, attrs in read.tags if tag == "figure"]
    assert kinds[-2:] == ["broken", "broken"]


def test_colours_follow_the_page(text):
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in drawings
    assert "var(--compressed)" in drawings
    assert re.findall(r"#[0-9a-f]{6}", drawings) == []


def test_equal_reports_make_equal_pages(report, tmp_path):
    part = Report(report.rows, Evidence(report.evidence.history))
    first, again = (part.to_html(tmp_path / name) for name in ("a.html", "b.html"))
    assert first.read_bytes() == again.read_bytes()


def test_a_report_of_one_model_has_one_figure(tmp_path):
    read = Reader(BARE.to_html(tmp_path / "bare.html").read_text(encoding="utf-8"))
    assert [attrs["id"] for tag, attrs in read.tags if tag == "figure"] == [
        "comparison"
    ]
    assert "trust" not in read.ids


def test_the_picture_has_all_figures(report, tmp_path):
    path = report.to_png(tmp_path / "report.png")
    with Image.open(path) as picture:
        width, height = picture.size
        assert width == 1350
        assert height > 3000
        # Something is drawn from top to bottom, in the palette's colours.
        colours = picture.convert("RGB")
        for top in range(0, height - 300, 300):
            strip = colours.crop((0, top, width, top + 300))
            assert len(strip.getcolors(maxcolors=width * 300)) > 5


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_what_is_not_installed(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CompressionError, match=rf"needs {package}.*tfcompress\[report"):
        BARE.to_html(tmp_path / "never.html")
    assert list(tmp_path.iterdir()) == []


def test_where_a_page_is_written(tmp_path):
    path = tmp_path / "new" / "report.html"
    assert BARE.to_html(str(path)) == path
    path.write_text("old")
    BARE.to_html(path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(ExportError, match="a directory is never replaced"):
        BARE.to_html(tmp_path)
    with pytest.raises(InvalidArgumentError, match="Received: StringIO"):
        BARE.to_html(io.StringIO())


def test_figures_that_are_missing_or_extreme(tmp_path):
    nan = float("nan")
    rows = (
        Row("a", "keras", 4000, 3000, metric=nan, latency=0.0),
        Row("b", "tflite", 1, 1, metric=float("inf"), size_ratio=4000.0),
    )
    points = (
        FrontPoint("failed", 50, nan),
        FrontPoint("worst", 60, float("-inf")),
        FrontPoint("free", 0, 0.5),
    )
    for evidence in (
        Evidence({"loss": (nan, nan), "empty": ()}, points[:1], {"a": nan}),
        Evidence({}, points, {"a": 0.0, "b": -1.0}),
    ):
        page = Report(rows, evidence).to_html(tmp_path / "page.html")
        read = Reader(page.read_text(encoding="utf-8"))
        assert "front" in read.ids
        assert "sensitivity" in read.ids


def test_scripts_without_a_font_here(tmp_path):
    report = Report((Row("模型", "keras", 4, 3),), Evidence(sensitivity={"कर्नेल": 1.0}))
    words = report.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert words.count("模型") > 2
    assert report.to_png(tmp_path / "page.png").stat().st_size > 1000
