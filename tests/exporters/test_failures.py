"""Disks that refuse, converters that die, files that are damaged."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.child import process as converter
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.exporters import export, load
from tfcompress.exporters.publishing import staged

L = keras.layers


def entries(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.export
def test_existing_file(plain, plain_file):
    before = plain_file.path.read_bytes()
    with pytest.raises(ExportError, match=r"exists already.*overwrite=True"):
        export(plain, plain_file.path)
    assert plain_file.path.read_bytes() == before


@pytest.mark.export
def test_overwrite(plain, tmp_path):
    target = tmp_path / "model.tflite"
    target.write_bytes(b"old")
    artifact = export(plain, target, overwrite=True)
    assert artifact.size > 1000
    assert entries(tmp_path) == ["model.tflite", "model.tflite.manifest.json"]


@pytest.mark.export
def test_path_under_a_file(plain, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="Not a directory"):
        export(plain, tmp_path / "file" / "model.tflite")
    with pytest.raises(ExportError, match="Not a directory"):
        export(plain, tmp_path / "file" / "1", format="saved_model")
    assert entries(tmp_path) == ["file"]


@pytest.mark.export
def test_read_only_file_system(plain):
    with pytest.raises(ExportError, match="could not be written; nothing was left"):
        export(plain, "/proc/tfcompress/model.tflite")


@pytest.mark.export
@pytest.mark.parametrize(
    ("name", "format"), [("model.tflite", "tflite"), ("base/1", "saved_model")]
)
def test_disk_full_at_the_last_moment(plain, tmp_path, monkeypatch, name, format):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match="No space left on device"):
        export(plain, tmp_path / "new" / name, format=format)
    assert entries(tmp_path) == []


@pytest.mark.export
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("m.tflite", "tflite"),
        ("base/1", "saved_model"),
        pytest.param("m.onnx", "onnx", marks=pytest.mark.slow),
        pytest.param("page", "web", marks=pytest.mark.slow),
    ],
)
def test_disk_full_in_the_middle(tmp_path, name, format):
    """Files of this process may have 40 kB for a while; the model has 160."""
    resource = pytest.importorskip("resource")
    pytest.importorskip("onnxruntime")
    model = keras.Sequential([keras.Input((200,), name="x"), L.Dense(200, name="y")])
    converter.WORKER.warm_up()  # it keeps the limit of now
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with pytest.raises(ExportError, match=r"could not be written|File too large"):
            export(model, tmp_path / "new" / name, format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert entries(tmp_path) == []
    assert export(model, tmp_path / "new" / name, format=format).size > 160_000


@pytest.mark.export
def test_paths_that_go_up(plain, tmp_path):
    for path in (tmp_path / "..", tmp_path / "new" / "..", "", "."):
        with pytest.raises(InvalidArgumentError, match="does not name what is to be"):
            export(plain, path, format="saved_model")
    artifact = export(plain, tmp_path / "away" / ".." / "here.tflite")
    assert artifact.path == tmp_path.resolve() / "here.tflite"
    assert entries(tmp_path) == ["here.tflite", "here.tflite.manifest.json"]


def test_a_killed_export_publishes_nothing(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent("""
        import os, pathlib, signal, sys
        from tfcompress.exporters.publishing import staged
        with staged(pathlib.Path(sys.argv[1])) as stage:
            stage.mkdir()
            (stage / "saved_model.pb").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    base = tmp_path / "models" / "student"
    done = subprocess.run(
        [sys.executable, str(script), str(base / "1")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    # What is left is hidden, and no server takes it for a version.
    left = entries(base)
    assert len(left) == 2
    assert all(name.startswith(".tmp-tfcompress-") for name in left)
    with pytest.raises(ArtifactError, match="not an artifact"):
        load(base)
    # The next export there removes it.
    with staged(base / "1") as stage:
        stage.mkdir()
    assert entries(base) == ["1"]


def test_interrupted_publication_leaves_nothing(tmp_path):
    def write():
        with staged(tmp_path / "a" / "b" / "file") as stage:
            stage.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert entries(tmp_path) == []


def test_target_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "file"

    def write():
        with staged(target) as stage:
            stage.write_text("mine")
            target.write_text("theirs")

    with pytest.raises(ExportError, match="exists already"):
        write()
    assert target.read_text() == "theirs"
    assert entries(tmp_path) == ["file"]


@pytest.mark.export
def test_worker_is_used_again_and_restarted(plain, tmp_path):
    export(plain, tmp_path / "1.tflite")
    pid = converter.WORKER.pid
    export(plain, tmp_path / "2.tflite")
    assert converter.WORKER.pid == pid
    os.kill(pid, signal.SIGKILL)
    artifact = export(plain, tmp_path / "3.tflite")
    assert converter.WORKER.pid not in (None, pid)
    assert artifact.path.read_bytes() == (tmp_path / "2.tflite").read_bytes()


@pytest.mark.export
def test_converter_that_crashes_is_an_error(tmp_path):
    # Calibrating a rolled LSTM makes TensorFlow's calibrator segfault.
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, L.LSTM(4)(inputs))
    data = np.random.default_rng(0).normal(size=(8, 5, 3))
    with pytest.raises(ExportError, match=r"crashed.*SIGSEGV.*unroll=True"):
        export(model, tmp_path / "new" / "lstm.tflite", calibration_data=data)
    assert entries(tmp_path) == []


def test_worker_that_dies_during_a_job(monkeypatch):
    worker = converter.ConverterProcess()
    send = worker._send

    def killed(job, arrays=None):
        number = send(job, arrays)
        os.kill(worker.pid, signal.SIGKILL)
        return number

    monkeypatch.setattr(worker, "_send", killed)
    with pytest.raises(converter.ConverterFailure, match="killed by SIGKILL") as caught:
        worker.run({"job": "probe", "path": "nowhere"})
    assert caught.value.died
    assert worker.pid is None


def test_worker_needs_neither_directory_nor_main(tmp_path):
    """A script without a `__main__` guard, run elsewhere, exports once."""
    script = tmp_path / "script.py"
    # These would be imported if the worker looked into the working directory.
    (tmp_path / "numpy.py").write_text("raise SystemExit('wrong numpy')")
    work = tmp_path / "work"
    work.mkdir()
    (work / "tensorflow.py").write_text("raise SystemExit('wrong tensorflow')")
    script.write_text(
        textwrap.dedent("""
        import sys
        sys.path.pop(0)
        print("started")
        from tfcompress.child.process import WORKER, ConverterFailure
        from tfcompress.exporters.tflite import SCRIPT
        try:
            WORKER.run({"job": "probe", "script": SCRIPT, "path": "missing.tflite"})
        except ConverterFailure as failure:
            print(failure.reason)
        """)
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=work,
        env={**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.count("started") == 1, done.stderr
    assert "Could not open 'missing.tflite'" in done.stdout
    assert done.returncode == 0


@pytest.mark.export
@pytest.mark.parametrize("keep", [0, 4, 60, 0.1, 0.5, 0.9, -1])
def test_truncated_file(plain_file, tmp_path, keep):
    content = plain_file.path.read_bytes()
    size = int(len(content) * keep) if 0 < keep < 1 else keep
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(content[:size])
    with pytest.raises(ArtifactError, match=r"damaged or truncated|does not run"):
        load(broken)


@pytest.mark.export
def test_flipped_bytes_never_kill_the_process(quantized_file, tmp_path, images):
    content = quantized_file.path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(30):
        damaged = bytearray(content)
        for position in rng.integers(8, len(content), 20):
            damaged[position] = rng.integers(0, 256)
        path = tmp_path / "flipped.tflite"
        path.write_bytes(damaged)
        try:
            load(path)
            outcomes.append("loaded")
        except ArtifactError:
            outcomes.append("refused")
    # Flips inside the weights are no damage a reader can see.
    assert len(outcomes) == 30
    assert outcomes.count("refused") >= 10


def test_nothing_there(tmp_path):
    with pytest.raises(ArtifactError, match="no artifact at this path"):
        load(tmp_path / "nothing.tflite")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="not an artifact of a known format"):
        load(tmp_path / "empty")


@pytest.mark.export
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (np.zeros((3, 7)), r"wrong shape. Received: shape \(3, 7\). .*\('n', 8\)"),
        (np.zeros((0, 8)), r"no samples. Received: shape \(0, 8\)"),
        (np.zeros(8), r"Received: shape \(8,\)"),
        ({"other": np.zeros((3, 8))}, r"names do not fit.*'other'.*input_1"),
        ([np.zeros((3, 8)), np.zeros((3, 8))], r"wrong shape|number of inputs"),
    ],
)
def test_wrong_arrays(plain_file, arrays, message):
    with pytest.raises(InvalidArgumentError, match=message):
        load(plain_file)(arrays)


@pytest.mark.export
def test_unequal_numbers_of_samples(two_headed, tmp_path):
    from tfcompress.exporters import KerasRunner

    with pytest.raises(InvalidArgumentError, match="differ in their number"):
        KerasRunner(two_headed)([np.zeros((3, 8)), np.zeros((2, 4))])


@pytest.mark.export
def test_a_saved_model_that_cannot_be_run(tmp_path):
    import tensorflow as tf

    class Reaching(tf.Module):
        def __init__(self):
            super().__init__()
            self.values, self.index = tf.Variable([1.0, 2.0]), tf.Variable(12)

        @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x")])
        def serve(self, x):
            return {"y": x + tf.gather(self.values, self.index)}

    module = Reaching()
    signatures = {"serving_default": module.serve}
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=signatures)
    runner = load(tmp_path / "1")
    with pytest.raises(ArtifactError, match=r"does not run.*12 is not in \[0, 2\)"):
        runner(np.ones((1, 2), "float32"))
