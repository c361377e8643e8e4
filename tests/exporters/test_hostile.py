"""Files that nobody vouches for: bounded in time and memory, and never programs."""

import json
import random
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.scripts import load_script
from tfcompress import ArtifactError, load
from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.exporters import Artifact
from tfcompress.exporters.manifest_file import manifest_path, read_manifest
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.exporters.tflite.metadata import read_labels

pytestmark = pytest.mark.export


def limited(tmp_path, body, **limits):
    """Runs a script in the child process within limits."""
    script = tmp_path / "job.py"
    lines = "\n    ".join(body)
    script.write_text(f"def run(job):\n    {lines}\n\n\nJOBS = {{'run': run}}\n")
    return WORKER.run({"job": "run", "script": str(script), **limits})


def test_a_job_has_so_much_time(tmp_path):
    with pytest.raises(ConverterFailure, match="SIGXCPU") as caught:
        limited(tmp_path, ["while True: pass"], cpu_seconds=1)
    assert caught.value.died
    # The next job has its own.
    assert limited(tmp_path, ["return {'sum': sum(range(10))}"])["sum"] == 45


def test_a_job_has_so_much_memory(tmp_path):
    with pytest.raises(ConverterFailure, match="MemoryError"):
        limited(tmp_path, ["return {'size': len(bytes(1 << 30))}"], memory=1 << 28)
    body = ["return {'size': len(bytes(1 << 30))}"]
    assert limited(tmp_path, body)["size"] == 1 << 30


def test_mutated_tflite_files_are_read_or_refused(quantized_file):
    # Structure only: benchmarks/fuzz.py runs what is read, too.
    mutate = load_script("benchmarks/_mutations.py").of_bytes
    content = quantized_file.path.read_bytes()
    read = 0
    for number in range(200):
        changed = mutate(content, random.Random(number))
        try:
            file = TFLiteFile(changed)
            file.census(), list(file.weights())
            read += 1
        except ArtifactError:
            continue
    assert 0 < read < 200


def test_labels_that_are_damaged_or_a_bomb(quantized_file):
    import io
    import zipfile

    def labelled(text):
        stream = io.BytesIO(quantized_file.path.read_bytes())
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("labels.txt", text)
        return stream.getvalue()

    assert read_labels(labelled("a\nb\n")) == ("a", "b")
    with pytest.raises(ArtifactError, match="more than"):
        read_labels(labelled(bytes(1 << 25)))
    with pytest.raises(ArtifactError, match="labels"):
        read_labels(labelled("a\n").replace(b"labels.txt", b"labelz.txt", 1))


class Writes(tf.Module):
    """A SavedModel that writes a file when it is called."""

    def __init__(self, target):
        super().__init__()
        self.target = target

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="x")])
    def serve(self, x):
        tf.io.write_file(self.target, "written")
        return {"y": x}


def test_a_saved_model_that_writes_files_is_refused(tmp_path):
    module = Writes(str(tmp_path / "written"))
    tf.saved_model.save(module, str(tmp_path / "1"), {"serving_default": module.serve})
    for read in (load, Artifact.read):
        with pytest.raises(ArtifactError, match="WriteFile"):
            read(tmp_path / "1")
    assert not (tmp_path / "written").exists()


def test_a_manifest_is_no_voucher_for_what_others_wrote(
    quantized_version, tmp_path, monkeypatch
):
    from tfcompress.exporters import manifest
    from tfcompress.exporters.saved_model import exporter as saved_model

    asked = []
    monkeypatch.setattr(
        saved_model, "open_in_jail", lambda path, *_, **__: asked.append(path)
    )
    Artifact.read(quantized_version)
    assert asked == []  # this process made it
    shutil.copytree(quantized_version.path, tmp_path / "1")
    monkeypatch.setattr(manifest, "_MADE_HERE", set())
    Artifact.read(tmp_path / "1")
    assert asked == [tmp_path / "1"]


@pytest.mark.parametrize(
    "path", ["../m", "/etc/passwd", "a/../../b", "..\\b", "", "a" * 300]
)
def test_a_manifest_names_no_path_outside(plain_file, tmp_path, path):
    copy = tmp_path / "copy.tflite"
    shutil.copy(plain_file.path, copy)
    content = json.loads(manifest_path(plain_file.path).read_text())
    content["files"][0]["path"] = path
    manifest_path(copy).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="names the path"):
        read_manifest(copy)


def test_a_signature_of_tensors_that_hold_nothing(plain_file, tmp_path):
    from tfcompress.exporters.tflite.assembling import put_together
    from tfcompress.exporters.tflite.rewriting import take_apart

    model = take_apart(plain_file.path.read_bytes())
    graph = model.subgraphs[0]
    (inner,) = {int(graph.operators[0].outputs[0])} - set(map(int, graph.outputs))
    model.signatureDefs[0].outputs[0].tensorIndex = inner
    (tmp_path / "m.tflite").write_bytes(put_together(model))
    with pytest.raises(ArtifactError, match="signature names tensors"):
        load(tmp_path / "m.tflite")(np.zeros((1, 8), "float32"))
