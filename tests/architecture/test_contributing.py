"""What CONTRIBUTING.md shows is done as a contributor would: in the files it names."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SECTION = re.compile(r"^## (Add a [a-z]+)\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)


def additions(text):
    """Yields `(folder, file, class, code of the file, code of the test)`."""
    for title, section in _SECTION.findall(text):
        code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        named = re.search(r"One file in `([\w/]+)/`, say `(\w+\.py)`", section)
        if code:
            assert named, f"'{title}' does not name the file that it shows"
            (kind,) = re.findall(r"^class (\w+)", code[0], re.MULTILINE)
            yield *named.groups(), kind, code[0], "\n".join(code[1:])


def test_each_addition_is_a_file_with_one_import_line(tmp_path):
    package = tmp_path / "tfcompress"
    shutil.copytree(
        ROOT / "tfcompress", package, ignore=shutil.ignore_patterns("__pycache__")
    )
    found = list(additions((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert [kind for _, _, kind, _, _ in found] == ["Squared", "LargestDifference"]
    script = ["import tfcompress", "print(tfcompress.__file__)"]
    for folder, file, kind, code, test in found:
        (tmp_path / folder / file).write_text(code, encoding="utf-8")
        module = f"{folder.replace('/', '.')}.{file.removesuffix('.py')}"
        line = f"from {module} import {kind}"
        init = tmp_path / folder / "__init__.py"
        # The first import of all, where a circle would bite first.
        text = init.read_text(encoding="utf-8")
        init.write_text(text.replace("\nfrom ", f"\n{line}\nfrom ", 1))
        script += [line, f"from {module} import *", test]
    script.append("tfcompress.PruneWeights(0.5, criterion='squared')")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(package / "__init__.py")
