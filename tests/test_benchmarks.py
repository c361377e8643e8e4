"""The table of benchmarks/README.md names every script, and who quotes it."""

import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
_ROW = re.compile(
    r"^\| [^|]+ \| `python benchmarks/(\w+\.py)[^|]* \| (.+)$", re.MULTILINE
)
ROWS = _ROW.findall((BENCHMARKS / "README.md").read_text(encoding="utf-8"))


def test_every_script_has_one_row():
    assert sorted(script for script, _ in ROWS) == [
        path.name for path in sorted(BENCHMARKS.glob("[!_]*.py"))
    ]


@pytest.mark.parametrize(("script", "cells"), ROWS)
def test_the_documents_quote_the_script(script, cells):
    documents = re.findall(r"\]\((.+?)\)", cells)
    assert documents or "no document" in cells
    for document in documents:
        text = (BENCHMARKS / document).read_text(encoding="utf-8")
        assert f"benchmarks/{script}" in text, document
