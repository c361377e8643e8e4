"""The example about distillation runs."""

import pytest

from tests.scripts import load_script


@pytest.mark.slow
@pytest.mark.examples
def test_distill_tree(tmp_path, capsys):
    module = load_script("examples/distill_tree.py")
    accuracies = module.main(smoke=True, output=str(tmp_path))
    assert set(accuracies) == {"teacher", "tree", "taught tree"}
    assert min(accuracies.values()) > 0.3
    assert "the way of the first test image" in capsys.readouterr().out
    assert (tmp_path / "path.png").stat().st_size > 1000
    assert (tmp_path / "rules.txt").read_text().count("class") == 16
