"""The Python in the documents can be pasted, from the top of each page.

Each file's ```python blocks run in order in one namespace, which holds nothing before.
A block is left out only if its fence says ```python no-run and its first line is a
comment that says why.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tfcompress.layers.rules import _rules
from tfcompress.pruning.criteria import CRITERIA

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
#: Pages without code that a newcomer follows links from.
SIGNPOSTS = [
    ROOT / "llms.txt",
    ROOT / "SECURITY.md",
    ROOT / "savedmodels/README.md",
    *sorted((ROOT / ".github").rglob("*.md")),
]
_BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text):
    """Returns `(line, tag, code)` of each Python block of a document."""
    return [
        (text.count("\n", 0, match.start()) + 2, match[1].strip(), match[2])
        for match in _BLOCK.finditer(text)
    ]


def run_document(text, name, namespace):
    """Runs the blocks of a document and returns how many there were."""
    count = 0
    for line, tag, code in blocks(text):
        if tag == "no-run":
            assert code.startswith("#"), f"{name}:{line} does not say why it is not run"
            continue
        assert tag == "", f"{name}:{line} has an unknown tag '{tag}'"
        # Empty lines in front keep the document's line numbers in tracebacks.
        exec(compile("\n" * (line - 1) + code, name, "exec"), namespace)
        count += 1
    return count


@pytest.fixture
def registries_as_before():
    """Takes back what the examples register."""
    rules, found = dict(_rules), dict(CRITERIA._classes)
    yield
    _rules.clear()
    _rules.update(rules)
    CRITERIA._classes.clear()
    CRITERIA._classes.update(found)


@pytest.mark.export
@pytest.mark.usefixtures("registries_as_before")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_python_of_a_document_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    namespace = {"__name__": "__main__"}
    ran = run_document(text, path.name, namespace)
    skipped = sum(tag == "no-run" for _, tag, _ in blocks(text))
    assert ran + skipped == len(re.findall(r"^```python", text, re.MULTILINE))
    if path.name == "README.md":
        assert (tmp_path / "student.tflite").stat().st_size > 500
        assert (tmp_path / "savedmodels/student/1/saved_model.pb").is_file()
        weights = namespace["deployable"].get_weights()
        kernels = np.concatenate([w.ravel() for w in weights if w.ndim > 1])
        assert float(np.mean(kernels == 0)) >= 0.79


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_is_defined_on_the_page(path):
    """Also in the blocks that are not run."""
    code = "\n".join(code for *_, code in blocks(path.read_text(encoding="utf-8")))
    options = ["--isolated", "--select=F821", "--output-format=concise"]
    check = [sys.executable, "-m", "ruff", "check", *options, "-"]
    found = subprocess.run(check, input=code, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_failing_block_names_its_document_and_line():
    text = "# Title\n\n```python\nx = 1\n```\ntext\n```python\nx = y\n```\n"
    with pytest.raises(NameError) as caught:
        run_document(text, "some.md", {})
    last = caught.traceback[-1]
    assert (str(last.frame.code.raw.co_filename), last.lineno + 1) == ("some.md", 8)


def test_a_skipped_block_must_say_why():
    assert run_document("```python no-run\n# Needs a phone.\nx\n```\n", "a.md", {}) == 0
    with pytest.raises(AssertionError, match=r"a\.md:2 does not say why"):
        run_document("```python no-run\nx\n```\n", "a.md", {})


@pytest.mark.parametrize("mark", ["tests", "demo"])
def test_the_readme_has_the_command_that_ci_runs(mark):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"^<!-- {mark} -->\n```sh\n(.+)\n```", text, re.MULTILINE)
    assert len(found) == 1, f"one command is to follow <!-- {mark} --> in the README"
    assert found[0].startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


@pytest.mark.parametrize("path", [*DOCUMENTS, *SIGNPOSTS], ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [t for t in targets if not (path.parent / t).exists()] == []


def test_llms_txt_leads_to_every_page():
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert [page for page in pages if f"(docs/{page})" not in text] == []


def test_pre_commit_checks_what_ci_checks():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (local,) = yaml.safe_load(text)["repos"]
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    checks = set(re.findall(r"^\.venv/bin/((?:ruff|mypy)\b.*)$", ci, re.MULTILINE))
    assert {hook["entry"] for hook in local["hooks"]} == checks
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
