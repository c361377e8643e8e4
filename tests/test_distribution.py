"""Two replicas and two processes train what one does; the chief writes."""

import json
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

import tfcompress
from tests.scripts import ROOT, load_script
from tfcompress.core.errors import CompressionWarning, InvalidArgumentError


def compare(tmp_path, *techniques):
    """Returns the rows of the benchmark, which forks before TensorFlow starts."""
    path = tmp_path / "rows.json"
    script = [ROOT / "benchmarks/two_workers.py", "--json", path, "--techniques"]
    child = subprocess.run(
        [sys.executable, *script, *techniques], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-3000:]
    rows = json.loads(path.read_text())
    for row in rows:
        assert row["workers_agree"], row
        assert row["replicas_agree"], row
        assert row["steps"] == 24, row
        assert max(row["workers"], row["replicas"], row["loss"]) < 1e-5, row
        # When this fails, a newer Keras can do without `tfcompress.distribute`.
        assert row["needed"] == ["batch", "numbers"], row
    return rows


@pytest.mark.slow
def test_two_workers_and_two_replicas_equal_one_process(tmp_path):
    # Ranges are what replicas tell each other in mid-step; shared values have an
    # optimizer of their own.
    for row in compare(tmp_path, "quantize", "cluster"):
        assert row["zeros"] < 0.1


@pytest.mark.slow
def test_every_technique(tmp_path):
    names = list(load_script("benchmarks/_techniques.py").TECHNIQUES)
    rows = {row["technique"]: row for row in compare(tmp_path, *names)}
    assert list(rows) == names
    assert rows["prune"]["zeros"] > 0.7
    assert rows["all together"]["zeros"] > 0.7
    assert rows["train sparse by lot"]["zeros"] > 0.4


def local():
    return tfcompress.distribute(tf.distribute.MultiWorkerMirroredStrategy())


def test_a_keras_that_does_without_is_told_once():
    strategy = local()
    with pytest.warns(CompressionWarning, match=r"by itself.*leave .*distribute out"):
        assert float(strategy.reduce("MEAN", tf.constant(2.0), axis=None)) == 2.0
    strategy.reduce("MEAN", tf.constant(2.0), axis=None)  # warnings are errors


def test_what_tensorflow_refuses_is_answered():
    strategy = local()
    batch = strategy.reduce("MEAN", (tf.ones((2, 3)), tf.constant(["a", "b"])), None)
    assert [tuple(part.shape) for part in batch] == [(2, 3), (2,)]
    assert float(strategy.reduce("MEAN", tf.constant(2.0), axis=0)) == 2.0
    assert strategy.reduce.needed == {"batch", "numbers"}
    # Its own answers stay TensorFlow's.
    assert float(strategy.reduce("MEAN", tf.constant([1.0, 3.0]), axis=0)) == 2.0
    assert tfcompress.distribute(strategy).reduce is strategy.reduce


def test_other_strategies_are_left_alone():
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    assert tfcompress.distribute(one) is one
    assert "reduce" not in vars(one)
    with pytest.raises(InvalidArgumentError, match="no strategy"):
        tfcompress.distribute("two machines")


def as_task(monkeypatch, kind, index, **cluster):
    task = {"type": kind, "index": index}
    cluster = cluster or {"worker": ["a:1", "b:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))


@pytest.mark.parametrize(
    ("kind", "index", "cluster", "chief"),
    [
        ("worker", 0, {}, True),
        ("worker", 1, {}, False),
        ("chief", 0, {"chief": ["a:1"], "worker": ["b:1"]}, True),
        ("worker", 0, {"chief": ["a:1"], "worker": ["b:1"]}, False),
        ("evaluator", 0, {}, False),
    ],
)
def test_who_is_chief(monkeypatch, kind, index, cluster, chief):
    as_task(monkeypatch, kind, index, **cluster)
    assert tfcompress.is_chief() == chief


def test_without_a_cluster_everyone_is_chief(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert tfcompress.is_chief()
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert tfcompress.is_chief()


def test_only_the_chief_writes(monkeypatch, tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    (tmp_path / "file").write_bytes(b"abc")
    as_task(monkeypatch, "worker", 1)
    with pytest.raises(InvalidArgumentError, match=r"export .*worker 1.*is_chief"):
        tfcompress.export(model, tmp_path / "m" / "model.tflite")
    with pytest.raises(InvalidArgumentError, match=r"pack .*worker 1.*is_chief"):
        tfcompress.pack(tmp_path / "file", tmp_path / "packed")
    with pytest.raises(InvalidArgumentError, match=r"compress .*worker 1.*is_chief"):
        tfcompress.compress(model, [], [], tfcompress.Budget(max_bytes="1 MB"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    as_task(monkeypatch, "worker", 0)
    assert tfcompress.pack(tmp_path / "file", tmp_path / "packed").original_size == 3
