"""The command and the example, as a user runs them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tfcompress.cli import app

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.examples
@pytest.mark.export
def test_demo_smoke(tmp_path):
    result = CliRunner().invoke(
        app, ["demo", "--smoke", "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "training images" in result.output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["phone"]["passed"] is True
    assert figures["phone"]["integer_coverage"] == 1.0
    assert figures["phone"]["max_error_steps"] <= 1.001
    assert figures["server"]["max_abs_error"] <= 1e-5
    rows = {row["name"]: row for row in figures["report"]["rows"]}
    assert rows["student.tflite"]["sparsity"] >= 0.849
    smaller = rows["control.tflite"]["gzip_size"] / rows["student.tflite"]["gzip_size"]
    assert smaller >= 12
    assert (tmp_path / "out" / "savedmodels" / "student" / "1").is_dir()
    assert "student.tflite" in (tmp_path / "out" / "report.md").read_text()


def test_help_shows_the_demo():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "demo" in result.output


def test_a_mistake_ends_in_one_message_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "tfcompress.cli", "demo", "--smoke"]
        + ["--output", str(tmp_path / "file" / "out")],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Error:" in done.stderr


def test_example_is_the_story_of_the_readme_word_for_word():
    readme = (ROOT / "README.md").read_text()
    stories = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (story,) = [block for block in stories if "Distiller(" in block]
    example = (ROOT / "examples" / "prune_quantize_distill.py").read_text()
    indented = "".join(
        f"    {line}" if line.strip() else line
        for line in story.splitlines(keepends=True)
    )
    assert indented in example


@pytest.mark.slow  # the demo's smoke run trains as much, the README's code runs too
@pytest.mark.examples
@pytest.mark.export
def test_example_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "prune_quantize_distill.py")]
        + ["--smoke"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "prune_quantize_distill"
    assert (folder / "student.tflite").stat().st_size < 600_000
    assert (folder / "savedmodels" / "student" / "1" / "saved_model.pb").is_file()
    assert "student.tflite" in done.stdout


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.timeout(3600)
def test_figures_of_the_whole_demo(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["trained_agreement"]["samples"] == 10_000
    assert figures["trained_agreement"]["agreement"] >= 0.999
    assert figures["trained_agreement"]["max_error_steps"] <= 1.001
    assert figures["phone"]["integer_coverage"] == 1.0
    assert figures["server"]["max_abs_error"] <= 1e-5
    rows = {row["name"]: row for row in figures["report"]["rows"]}
    assert rows["student.tflite"]["sparsity"] >= 0.8
    assert rows["student.tflite"]["metric"] >= rows["control"]["metric"] - 0.005
    smaller = rows["control.tflite"]["gzip_size"] / rows["student.tflite"]["gzip_size"]
    assert smaller >= 12
