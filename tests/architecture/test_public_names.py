"""The public names: checked in, documented, and nothing else."""

import importlib
import inspect
import subprocess
import sys
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


#: The names of every day, which come first, in the order of the work.
EVERYDAY = [
    *("compress", "Budget", "Search", "Recipe", "PruneWeights", "PolynomialSparsity"),
    *("ClusterWeights", "quantize_aware", "calibrate", "Distiller", "shrink"),
    *("factorize", "finalize", "doctor", "export", "load", "verify", "benchmark"),
    *("trust", "report"),
]
#: Modules that have the names by subject; those of one name stand alone.
SUBJECTS = (
    *("pruning", "quantization", "clustering", "channels", "low_rank", "distillation"),
    *("schedules", "layers", "exporters", "verification", "benchmarking", "packing"),
    *("reporting", "trustworthiness", "compression", "finalization", "diagnosis"),
    *("distribution", "seeding", "core.errors", "core.once_final", "core.workers"),
    *("interop", "sequences"),
)


def test_the_names_of_every_day_come_first_and_each_stands_once():
    assert tfcompress.__all__[:20] == EVERYDAY
    assert tfcompress.__all__[20:] == sorted(set(tfcompress.__all__) - set(EVERYDAY))
    assert [n for n in tfcompress.__all__ if not hasattr(tfcompress, n)] == []


def test_every_name_is_in_the_module_of_its_subject_too():
    modules = [importlib.import_module(f"tfcompress.{one}") for one in SUBJECTS]
    for name in tfcompress.__all__:
        homes = [one for one in modules if hasattr(one, name)]
        assert homes, f"{name} is in no module of SUBJECTS"
        assert all(getattr(h, name) is getattr(tfcompress, name) for h in homes), name


@pytest.mark.parametrize("room", ["pruning", "quantization", "channels", "low_rank"])
def test_a_module_of_a_subject_can_be_what_is_imported_first(room):
    """In the command `import tfcompress` loads nothing, so any room may be first."""
    code = f"import sys; sys.argv = ['tfcompress']; import tfcompress.{room}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_llms_txt_names_what_is_used_every_day():
    text = (Path(tfcompress.__file__).parents[1] / "llms.txt").read_text("utf-8")
    assert [name for name in EVERYDAY if f"`{name}`" not in text] == []


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
