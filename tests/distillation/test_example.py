"""The example about distillation runs."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.examples
def test_distill_tree(tmp_path, capsys):
    path = Path(__file__).parents[2] / "examples" / "distill_tree.py"
    spec = importlib.util.spec_from_file_location("distill_tree", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    accuracies = module.main(smoke=True, output=str(tmp_path))
    assert set(accuracies) == {"teacher", "tree", "taught tree"}
    assert min(accuracies.values()) > 0.3
    assert "the way of the first test image" in capsys.readouterr().out
    assert (tmp_path / "path.png").stat().st_size > 1000
    assert (tmp_path / "rules.txt").read_text().count("class") == 16
