"""The model base of the repository works as it stands, and can be rebuilt."""

import re
import statistics
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import load_script
from tfcompress.core.errors import ServingError
from tfcompress.datasets import load_images
from tfcompress.exporters.manifest_file import changed_files, read_manifest
from tfcompress.serving import Client, versions

pytest.importorskip("tensorflow_serving", reason="needs the extra 'serving'")
pytestmark = pytest.mark.export
BASE = Path(__file__).parents[2] / "savedmodels"


def test_it_is_small_whole_and_described():
    (version,) = versions(BASE / "clothes")
    folder = BASE / "clothes" / str(version)
    assert changed_files(folder) == []  # it has a manifest, and is as that says
    manifest = read_manifest(folder)
    assert manifest["model"]["kernel_sparsity"] >= 0.65
    assert manifest["parity"]["passed"]
    size = sum(f.stat().st_size for f in BASE.rglob("*") if f.is_file())
    assert size <= 300_000
    labels = (BASE / "clothes" / "labels.txt").read_text().split("\n")[:-1]
    assert len(labels) == 10


@pytest.fixture(scope="module")
def server():
    from tests.serving.model_server import ModelServer

    with ModelServer(BASE / "models.config", BASE) as running:
        yield running


def test_it_is_served_and_as_accurate_as_its_report_says(server):
    data = load_images(limit=1000)
    if "Fashion" not in data.name:
        pytest.skip("needs Fashion-MNIST")
    report = (BASE / "clothes" / "report.md").read_text()
    stated = float(re.search(r"SavedModel .*?\| ([\d.]+)%", report)[1]) / 100
    with Client(server.grpc_url, "clothes") as client:
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


@pytest.mark.slow
def test_2000_requests_of_8_clients(server, capsys):
    x = load_images(limit=100).x_test[:1]
    times, errors = [], []

    def ask(count):
        with Client(server.grpc_url, "clothes") as client:
            for _ in range(count):
                start = time.perf_counter()
                try:
                    client.predict({"image": x})
                except ServingError as error:
                    errors.append(error)
                times.append(1000 * (time.perf_counter() - start))

    threads = [threading.Thread(target=ask, args=(250,)) for _ in range(8)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    cuts = statistics.quantiles(times, n=100)
    with capsys.disabled():
        print(
            f"\n2000 gRPC requests, 8 clients: {seconds:.1f} s, p50 {cuts[49]:.1f} ms, "
            f"p99 {cuts[98]:.1f} ms"
        )
    assert errors == []
    assert len(times) == 2000
