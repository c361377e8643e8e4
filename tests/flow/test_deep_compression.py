"""The example of Deep Compression runs, and its files are as small as it says."""

import pytest

import tfcompress
from tests.scripts import load_script


@pytest.mark.slow
@pytest.mark.examples
@pytest.mark.export
def test_deep_compression(tmp_path, capsys):
    module = load_script("examples/deep_compression.py")
    results = module.main(smoke=True, output=str(tmp_path))
    assert set(results) == {"lenet_300_100", "lenet_5"}
    for name, found in results.items():
        assert found["original"] / found["packed"] > 30
        back = tfcompress.unpack(tmp_path / f"{name}.tfc", tmp_path / "back")
        assert back.read_bytes() == (tmp_path / f"{name}.tflite").read_bytes()
        kernels = tfcompress.storage(back).layers
        assert max(layer.values for layer in kernels) <= 15
    assert "bits a position" in capsys.readouterr().out
