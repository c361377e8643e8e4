"""What CONTRIBUTING.md shows is done as a contributor would: in the files it names."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
_SECTION = re.compile(r"^## ((?:Add|Teach) .*?)\n(.*?)(?=^## |\Z)", re.M | re.S)
_FILE = re.compile(r"One file in `([\w/]+)/`, say `(\w+\.py)`")


def sections(text):
    """Yields `(title, section, its Python blocks)` of sections that show code."""
    for title, section in _SECTION.findall(text):
        code = re.findall(r"```python\n(.*?)```", section, re.S)
        if code:
            yield title, section, code


def contribute(text, root):
    """Returns the process that runs the blocks in a copy of the package in `root`.

    The first block of an "Add" section is the file that the section names; all others
    are run after the package is imported.
    """
    package = root / "tfcompress"
    without_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tfcompress", package, ignore=without_caches)
    script = ["import tfcompress", "print(tfcompress.__file__)"]
    for title, section, code in sections(text):
        if title.startswith("Add"):
            place = _FILE.search(section)
            assert place, f"'{title}' does not name the file that it shows"
            folder, file = place.groups()
            (root / folder / file).write_text(code[0], encoding="utf-8")
            module = f"{folder.replace('/', '.')}.{file.removesuffix('.py')}"
            (kind,) = re.findall(r"^class (\w+)", code[0], re.M)
            init = root / folder / "__init__.py"
            # The first import of all, where a circle would bite first.
            imports = init.read_text(encoding="utf-8")
            line = f"\nfrom {module} import {kind}\nfrom "
            init.write_text(imports.replace("\nfrom ", line, 1), encoding="utf-8")
            code[0] = f"from {module} import *"
        script += code
    return subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )


def test_each_addition_is_a_file_with_one_import_line(tmp_path):
    titles = [title for title, _, _ in sections(CONTRIBUTING)]
    assert titles == ["Add a criterion", "Add a loss", "Teach it a layer"]
    done = contribute(CONTRIBUTING, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "tfcompress/__init__.py")


def test_a_circular_import_is_found(tmp_path):
    around = CONTRIBUTING.replace("criteria.base import", "criteria import")
    assert around != CONTRIBUTING
    done = contribute(around, tmp_path)
    assert done.returncode == 1
    assert "cannot import name 'Criterion' from partially initialized" in done.stderr
