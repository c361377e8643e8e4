"""Servers that others wrote answer as `load` does: BentoML and KServe's own in Python.

Both want packages that change those of the tests, so that they run where they are
installed: `pytest -m slow tests/serving/test_services.py`.
"""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

import tfcompress
from tests.exporters import same_models
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.serving import bento_service, kserve_server

pytestmark = pytest.mark.export
ROOT = Path(__file__).resolve().parents[2]
COPIES = {"tflite": "model.tflite", "onnx": "model.onnx", "saved_model": "model"}
FILES = {
    bento_service: ["bentofile.yaml", "service.py"],
    kserve_server: ["requirements.txt", "server.py"],
}
#: KServe listens at all addresses of a machine, and has no option for it.
_ON_LOOPBACK = """
import runpy, sys, uvicorn

class Config(uvicorn.Config):
    def __init__(self, *args, **options):
        super().__init__(*args, **{**options, "host": "127.0.0.1"})

uvicorn.Config = Config
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "query": rng.normal(size=(5, 8)).astype("float32"),
        "context": rng.normal(size=(5, 4)).astype("float32"),
    }


@pytest.fixture(scope="module", params=list(COPIES))
def artifact(request, arrays, tmp_path_factory):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    keras.utils.set_random_seed(0)
    model = same_models.two_inputs()
    if request.param == "tflite":
        model = tfcompress.calibrate(model, [arrays["query"], arrays["context"]])
        model = tfcompress.finalize(model)
    path = tmp_path_factory.mktemp("served") / COPIES[request.param]
    return tfcompress.export(model, path, format=request.param)


@pytest.mark.parametrize("write", list(FILES))
def test_what_is_written(artifact, arrays, tmp_path, write):
    folder = write(artifact, tmp_path / "served", name="letters")
    copy = COPIES[artifact.format]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES[write], copy])
    expected = tfcompress.load(artifact).run(arrays)
    for name, value in tfcompress.load(folder / copy).run(arrays).items():
        np.testing.assert_array_equal(value, expected[name])
    (script,) = folder.glob("*.py")
    text = script.read_text(encoding="utf-8")
    compile(text, str(script), "exec")
    assert f'with_name("{copy}")' in text
    assert '"letters"' in text
    needed = "tfcompress[onnx]" if artifact.format == "onnx" else "tfcompress"
    if write is kserve_server:
        lines = (folder / "requirements.txt").read_text().splitlines()
        assert lines == ["kserve>=0.15", needed]
    else:
        bento = yaml.safe_load((folder / "bentofile.yaml").read_text())
        assert bento["service"] == "service:Service"
        assert bento["include"] == ["service.py", copy]
        assert bento["python"]["packages"] == [needed]


@pytest.mark.parametrize("write", list(FILES))
def test_refused(artifact, tmp_path, write):
    with pytest.raises(InvalidArgumentError, match=r"a \.tflite file or a SavedModel"):
        write(str(artifact.path), tmp_path / "a")
    for name in ("Letters", 'x"\nimport os', "", None):
        with pytest.raises(InvalidArgumentError, match="name of a service"):
            write(artifact, tmp_path / "a", name=name)
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        write(artifact, tmp_path / "there")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("write", list(FILES))
def test_a_file_that_is_gone(tmp_path, write):
    file = tfcompress.export(same_models.residual(), tmp_path / "m.tflite")
    file.path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        write(file, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs the package {package}")


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextlib.contextmanager
def running(command, folder, ready, home):
    """Runs a server until it says that it is ready, and ends it with its children."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    log = home.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 120
        while not answers(ready):
            state = process.poll()
            assert state is None, f"ended with {state}: {log.read_text()[-2000:]}"
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def post(url, content):
    """Returns the status and the body of an answer."""
    request = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def assert_equal(found, artifact, arrays):
    expected = tfcompress.load(artifact).run(arrays)
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name], value.dtype), value)


@pytest.mark.slow
@needs("bentoml")
def test_bentoml(artifact, arrays, tmp_path):
    folder = bento_service(artifact, tmp_path / "bento", name="letters")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]

    def predict(**changed):
        inputs = {name: np.asarray(value).tolist() for name, value in arrays.items()}
        given = {n: v for n, v in {**inputs, **changed}.items() if v is not None}
        return post(f"{url}/predict", {"inputs": given})

    with running(command, folder, f"{url}/readyz", tmp_path / "home"):
        status, found = predict()
        assert status == 200
        assert_equal(found, artifact, arrays)
        for changed, reason in (
            ({"query": [[1.0] * 7] * 5}, "'query' has the wrong shape"),
            ({"query": [[1.0] * 8]}, "differ in their number of samples"),
            ({"query": [[1.0], [1.0, 2.0]]}, "inhomogeneous"),
            ({"query": [["a"] * 8] * 5}, "'query'"),
            ({"query": []}, "'query'"),
            ({"query": None}, "names do not fit"),
            ({"stranger": [[1.0]]}, "stranger"),
        ):
            status, found = predict(**changed)
            assert (status, reason in found) == (400, True), found
        assert_equal(predict()[1], artifact, arrays)


@pytest.mark.slow
@needs("kserve")
def test_kserve(artifact, arrays, tmp_path):
    folder = kserve_server(artifact, tmp_path / "kserve", name="letters")
    port = free_port()
    url = f"http://127.0.0.1:{port}/v2"
    options = ["--http_port", str(port), "--enable_grpc", "false"]
    command = ["-c", _ON_LOOPBACK, "server.py", *options]

    def tensor(name, value, shape=None):
        flat = np.asarray(value).ravel().tolist()
        shape = list(shape or np.shape(value))
        return {"name": name, "datatype": "FP32", "shape": shape, "data": flat}

    def infer(**changed):
        given = [tensor(*item) for item in {**arrays, **changed}.items()]
        return post(f"{url}/models/letters/infer", {"inputs": given})

    def by_name(answer):
        return {
            output["name"]: np.reshape(output["data"], output["shape"])
            for output in answer["outputs"]
        }

    with running(command, folder, f"{url}/models/letters/ready", tmp_path / "home"):
        with urllib.request.urlopen(f"{url}/models/letters", timeout=60) as answer:
            known = {i["name"]: i for i in json.load(answer)["inputs"]}
        assert known["query"]["datatype"] == "FP32"
        assert known["query"]["shape"][1:] == [8]
        status, found = infer()
        assert status == 200
        assert_equal(by_name(found), artifact, arrays)
        for changed, reason in (
            ({"query": np.ones((5, 7))}, "'query' has the wrong shape"),
            ({"query": np.ones((1, 8))}, "differ in their number of samples"),
            ({"query": [["a"] * 8] * 5}, "could not convert"),
            ({"stranger": [[1.0]]}, "stranger"),
        ):
            status, found = infer(**changed)
            assert (status, reason in found) == (400, True), found
        short = {"inputs": [tensor("query", [1.0, 2.0], (5, 8))]}
        status, found = post(f"{url}/models/letters/infer", short)
        assert (status, "cannot reshape" in found) == (400, True), found
        old = f"http://127.0.0.1:{port}/v1/models/letters:predict"
        status, found = post(old, {"instances": [[1.0]]})
        assert (status, "protocol v2" in found) == (400, True), found
        assert_equal(by_name(infer()[1]), artifact, arrays)
