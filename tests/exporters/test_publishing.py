"""Several writers of one target, long names, disks and limits that refuse."""

import errno
import json
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress import CompressionWarning, ExportError, export, load, verify
from tfcompress.child import process
from tfcompress.child.process import ConverterFailure, ConverterProcess
from tfcompress.exporters import publishing
from tfcompress.exporters.manifest_file import manifest_path, read_manifest
from tfcompress.exporters.publishing import staged


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def race(write, writers=8):
    with ThreadPoolExecutor(writers) as pool:
        return list(pool.map(write, range(writers)))


@pytest.mark.parametrize("kind", ["file", "directory", "file without links"])
def test_one_writer_succeeds(tmp_path, monkeypatch, kind):
    if kind == "file without links":

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    for turn in range(40):
        target = tmp_path / str(turn) / "model.bin"

        def write(number, target=target):
            try:
                with staged(target) as stage:
                    if kind == "directory":
                        stage.mkdir()
                        (stage / "one").write_text(str(number))
                    else:
                        stage.write_text(str(number))
            except ExportError:
                return False
            return True

        told = race(write)
        assert told.count(True) == 1
        found = target / "one" if kind == "directory" else target
        assert found.read_text() == str(told.index(True))
        assert [p.name for p in target.parent.iterdir()] == ["model.bin"]


@pytest.mark.export
def test_free_versions_for_all_writers(model, tmp_path):
    models = [keras.models.clone_model(model) for _ in range(4)]

    def write(number):
        return export(models[number], tmp_path / "served", format="saved_model")

    written = race(write, 4)
    assert sorted(artifact.path.name for artifact in written) == ["1", "2", "3", "4"]
    for own, artifact in zip(models, written):
        kernel = own.layers[0].kernel.numpy()
        np.testing.assert_allclose(load(artifact)(np.eye(4)), kernel, atol=1e-6)


@pytest.mark.export
def test_a_version_that_was_named_is_no_other(model, tmp_path):
    export(model, tmp_path / "1", format="saved_model")
    with pytest.raises(ExportError, match="exists already"):
        export(model, tmp_path / "1", format="saved_model")
    with pytest.raises(ExportError, match="exists already"):
        export(model, tmp_path, format="saved_model", version=1)


@pytest.mark.export
@pytest.mark.parametrize("letter", ["n", "é", "語"])
def test_names_of_255_bytes(model, tmp_path, letter):
    room = 255 - len(".tflite")
    name = letter * (room // len(letter.encode())) + ".tflite"
    artifact = export(model, tmp_path / name)
    other = letter * (room // len(letter.encode()) - 1) + "x.tflite"
    export(model, tmp_path / other)
    assert read_manifest(artifact)["files"][0]["path"] == name
    assert manifest_path(artifact.path) != manifest_path(tmp_path / other)
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(ExportError, match="too long"):
        export(model, tmp_path / f"{letter}{name}")


def test_suffixes_of_any_length(tmp_path):
    name = "a." + "b" * 253
    with staged(tmp_path / name) as stage:
        stage.write_text("x")
    assert (tmp_path / name).read_text() == "x"


@pytest.mark.export
def test_a_manifest_of_another_file_is_told(model, tmp_path):
    artifact = export(model, tmp_path / "a.tflite")
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    moved = export(other, tmp_path / "b.tflite").path
    moved.replace(artifact.path)
    before = manifest_path(artifact.path).read_text()
    with pytest.warns(CompressionWarning, match="of other files: a.tflite"):
        verify(artifact.path, other, np.ones((4, 4), "float32"))
    assert manifest_path(artifact.path).read_text() == before
    again = export(model, artifact.path, overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verify(again, model, np.ones((4, 4), "float32"))
    assert json.loads(manifest_path(again.path).read_text())["parity"]


def test_too_many_open_files_is_said(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "fsync", refuse)
    with (
        pytest.raises(ExportError, match=r"Too many open files.*ulimit"),
        staged(tmp_path / "a") as stage,
    ):
        stage.write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_whatever_the_writer_says(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "_is_full", lambda _: True)
    with (
        pytest.raises(ExportError, match="No space left") as caught,
        staged(tmp_path / "a"),
    ):
        raise ExportError("The converter crashed.")
    assert "converter" in str(caught.value.__cause__.__cause__)


@pytest.mark.parametrize("executable", ["", "/nowhere/python", None])
def test_a_python_that_is_not_there_is_found(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr("multiprocessing.spawn._python_exe", executable)
    worker = ConverterProcess()
    assert worker.run({"job": "warm"})["tensorflow"]
    worker.close()


@pytest.mark.parametrize("executable", ["/bin/true", "/bin/cat", "/bin/echo", "/"])
def test_what_is_no_python_is_said(model, tmp_path, monkeypatch, executable):
    monkeypatch.setattr("multiprocessing.spawn._python_exe", executable)
    process.WORKER.close()
    with pytest.raises(ExportError, match=r"could be started.*sys\.executable") as one:
        export(model, tmp_path / "m.tflite")
    assert executable in str(one.value)
    assert "unroll" not in str(one.value)
    assert list(tmp_path.iterdir()) == []


def test_a_deadline_of_the_clock(tmp_path):
    script = tmp_path / "jobs.py"
    script.write_text(
        "import time\ndef wait(job):\n    time.sleep(60)\nJOBS = {'wait': wait}\n"
    )
    worker = ConverterProcess()
    with pytest.raises(ConverterFailure, match="no answer in time"):
        worker.run({"job": "wait", "script": str(script), "wall_seconds": 3})
    assert worker.run({"job": "warm"})["tensorflow"]
    worker.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_in_the_middle_of_a_job(tmp_path):
    script = tmp_path / "jobs.py"
    script.write_text(
        "import time\ndef wait(job):\n    time.sleep(5)\n    return {}\n"
        "JOBS = {'wait': wait}\n"
    )
    text = f"""
import os, threading, time
from tfcompress.child.process import WORKER
job = {{"job": "wait", "script": {str(script)!r}}}
thread = threading.Thread(target=WORKER.run, args=(job,))
thread.start()
while WORKER._accepted == 0:
    time.sleep(0.01)
pid = os.fork()
if pid == 0:
    WORKER.run({{"job": "warm"}})
    print("child", flush=True)
    raise SystemExit(3)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
WORKER.run(job)
print("parent", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.split() == ["child", "3", "parent"], done.stderr[-2000:]


@pytest.mark.parametrize("state", ["idle", "at work"])
def test_the_child_ends_with_its_parent(tmp_path, state):
    script = tmp_path / "jobs.py"
    # A loop in C that keeps the interpreter to itself.
    script.write_text(
        "import re\ndef spin(job):\n    re.match(r'(a+)+$', 'a' * 60 + 'b')\n"
        "JOBS = {'spin': spin}\n"
    )
    text = f"""
import threading, time
from tfcompress.child.process import WORKER
WORKER.run({{"job": "warm"}})
print(WORKER.pid, flush=True)
if {state == "at work"}:
    WORKER.run({{"job": "spin", "script": {str(script)!r}}})
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with parent.stdout:
        pid = int(parent.stdout.readline())
    waited = threading.Event()
    waited.wait(1)
    parent.kill()
    parent.wait()
    for _ in range(50):
        if not alive(pid):
            return
        waited.wait(0.1)
    os.kill(pid, 9)
    pytest.fail("the child is still there after 5 s")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.export
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("format", ["tflite", "saved_model", "onnx", "openvino"])
def test_the_child_leaves_no_children(model, tmp_path, format):
    name = {"tflite": "m.tflite", "saved_model": "m/1", "onnx": "m.onnx"}
    export(model, tmp_path / name.get(format, "m"), format=format)
    threading.Event().wait(0.5)
    tasks = Path(f"/proc/{process.WORKER.pid}/task").iterdir()
    children = [(task / "children").read_text() for task in tasks]
    assert "".join(children).split() == []
