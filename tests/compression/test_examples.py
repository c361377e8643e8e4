"""The examples of compress: text, a sensor, a table, on real data, small."""

import pytest

from tests.scripts import load_script


@pytest.mark.examples
@pytest.mark.export
@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "sensor", "table"])
def test_example(name, tmp_path, capsys):
    module = load_script(f"examples/compress_{name}.py")
    result = module.main(smoke=True, output=str(tmp_path))
    # A smoke run has no time to be good: it must come to an end and be smaller.
    assert result.best.measures.bytes < 0.5 * result.baseline.measures.bytes
    assert result.best.verified.startswith("passed")
    printed = capsys.readouterr().out
    assert "not seen before" in printed or "rows right" in printed
