"""The model base of the repository works as it stands, and can be rebuilt."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import load_script
from tfcompress.datasets import load_images
from tfcompress.exporters.manifest import check_files, read_manifest
from tfcompress.serving import Client, versions

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")
pytestmark = pytest.mark.export
BASE = Path(__file__).parents[2] / "savedmodels"


def test_it_is_small_whole_and_described():
    (version,) = versions(BASE / "clothes")
    folder = BASE / "clothes" / str(version)
    assert check_files(folder)
    manifest = read_manifest(folder)
    assert manifest["model"]["kernel_sparsity"] >= 0.65
    assert manifest["parity"]["passed"]
    size = sum(f.stat().st_size for f in BASE.rglob("*") if f.is_file())
    assert size <= 300_000
    labels = (BASE / "clothes" / "labels.txt").read_text().split("\n")[:-1]
    assert len(labels) == 10


def test_it_is_served_and_as_accurate_as_its_report_says():
    from tests.serving.model_server import ModelServer

    data = load_images(limit=1000)
    if "Fashion" not in data.name:
        pytest.skip("needs Fashion-MNIST")
    report = (BASE / "clothes" / "report.md").read_text()
    stated = float(re.search(r"SavedModel .*?\| ([\d.]+)%", report)[1]) / 100
    server = ModelServer(BASE / "models.config", BASE)
    with server, Client(server.grpc_url, "clothes") as client:
        logits = client.predict(data.x_test)
        best = client.predict(data.x_test[:5], signature="classify")["labels"]
    assert server.models.find("clothes").warmed_up == 8
    classes = logits.argmax(-1)
    # A thousand of the ten thousand images.
    assert abs(np.mean(classes == data.y_test) - stated) < 0.03
    labels = (BASE / "clothes" / "labels.txt").read_text().split("\n")
    assert [b.decode() for b in best[:, 0]] == [labels[c] for c in classes[:5]]


@pytest.mark.slow
@pytest.mark.examples
def test_the_example_rebuilds_it(tmp_path, capsys):
    script = load_script("examples/serve_clothes.py")
    artifact = script.main(str(tmp_path), smoke=True)
    assert artifact.path == tmp_path / "clothes" / "1"
    script.main(str(tmp_path), smoke=True)
    assert versions(tmp_path / "clothes") == [1, 2]
    for name in ("models.config", "clothes/labels.txt", "clothes/report.md"):
        assert (tmp_path / name).stat().st_size > 50
