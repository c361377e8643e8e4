"""The public names: checked in, documented, and nothing else."""

import inspect
from pathlib import Path

import pytest

import tfcompress

LIST = Path(__file__).with_name("public_names.txt")
REGENERATE = (
    'python -c "import tfcompress; print(*sorted(tfcompress.__all__), sep=chr(10))" '
    "> tests/architecture/public_names.txt"
)


def test_public_names_are_the_ones_that_are_checked_in():
    listed = LIST.read_text(encoding="utf-8").split()
    assert listed == sorted(tfcompress.__all__), (
        f"The public names changed. If that is meant, run: {REGENERATE}"
    )


def test_every_public_name_exists_once_and_is_sorted():
    assert tfcompress.__all__ == sorted(set(tfcompress.__all__))
    assert [n for n in tfcompress.__all__ if not hasattr(tfcompress, n)] == []


def wanted_sections(thing):
    """Returns the docstring sections of which a public name must have one each."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return []
    doc = inspect.getdoc(thing) or ""
    if "Base class" in doc or "Attributes:" in doc:
        return []  # to be derived from, or received rather than made
    sections = [("Example:", "Examples:")]
    if inspect.signature(thing).parameters:
        sections.append(("Args:",))
    return sections


@pytest.mark.parametrize("name", tfcompress.__all__)
def test_every_public_name_is_documented(name):
    thing = getattr(tfcompress, name)
    doc = thing.__doc__ or ""
    missing = [
        " or ".join(alternatives)
        for alternatives in wanted_sections(thing)
        if not any(section in doc for section in alternatives)
    ]
    assert len(doc) > 20, f"tfcompress.{name} has no docstring"
    assert missing == [], f"the docstring of tfcompress.{name} lacks {missing}"
