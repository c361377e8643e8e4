"""Files of strangers: what they may not do, and what becomes of those that try."""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tfcompress.benchmarking import benchmark
from tfcompress.child import probing
from tfcompress.child.process import JAIL, ConverterFailure
from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.exporters import export, load, manifest
from tfcompress.exporters.jail import JailedRunner
from tfcompress.exporters.saved_model.programs import computing, reaching_out
from tfcompress.exporters.tflite.bounded import unbounded
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile
from tfcompress.exporters.tflite.runner import TFLiteRunner

SPEC = tf.TensorSpec((None, 4), "float32", name="x")
X = np.ones((2, 4), "float32")


def saved(path, body, spec=SPEC, **parts):
    """Saves a module whose signature is `body`, and returns its directory."""
    module = tf.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    module.f = tf.function(body, input_signature=[spec])
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.f})
    return path


def strangers(monkeypatch):
    """Lets this process forget what it made."""
    monkeypatch.setattr(manifest, "_MADE_HERE", set())
    monkeypatch.setattr(manifest, "_FILES_MADE_HERE", set())


class AtLoad(tf.saved_model.experimental.TrackableResource):
    """A table whose initializer, which runs when it is loaded, is `act`."""

    def __init__(self, act):
        super().__init__("CPU")
        self.act = act
        self._handle = self._create_resource()

    def _create_resource(self):
        return tf.raw_ops.MutableHashTableV2(
            key_dtype=tf.string, value_dtype=tf.int64, shared_name="t"
        )

    def _initialize(self):
        self.act()

    def _destroy_resource(self):
        pass

    def size(self):
        size = tf.raw_ops.LookupTableSizeV2(table_handle=self.resource_handle)
        return tf.cast(size, "float32")


def aborting(x):
    abort = tf.raw_ops.Abort(error_msg="bye", exit_without_error=True)
    with tf.control_dependencies([abort]):
        return {"y": x * 2}


def reading(x):
    return {
        "y": x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), x.dtype)
    }


def restoring(x):
    found = tf.raw_ops.RestoreV2(
        prefix="/tmp/other",
        tensor_names=["a"],
        shape_and_slices=[""],
        dtypes=["float32"],
    )
    return {"y": x + tf.reshape(found[0], ())}


def sampling(x):
    found = tf.raw_ops.FixedUnigramCandidateSampler(
        true_classes=[[0]],
        num_true=1,
        num_sampled=1,
        unique=False,
        range_max=1,
        vocab_file="/etc/passwd",
    )
    return {"y": x + found.sampled_expected_count}


def in_a_branch(x):
    def bad():
        return aborting(x)["y"]

    return {"y": tf.cond(tf.reduce_sum(x) > 0, bad, lambda: x)}


def summing(x):
    writer = tf.raw_ops.SummaryWriter(shared_name="s", container="")
    with tf.control_dependencies(
        [
            tf.raw_ops.CreateSummaryDbWriter(
                writer=writer,
                db_uri="/tmp/evil.db",
                experiment_name="",
                run_name="",
                user_name="",
            )
        ]
    ):
        return {"y": x + 1}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (aborting, "Abort"),
        (reading, "ReadFile"),
        (restoring, "RestoreV2"),
        (sampling, "FixedUnigramCandidateSampler"),
        (in_a_branch, "Abort"),
        (summing, "CreateSummaryDbWriter"),
    ],
)
def test_what_does_more_than_compute_is_refused(tmp_path, body, named):
    path = saved(tmp_path / "m", body)
    for call in (load, tfcompress.Artifact.read):
        with pytest.raises(ArtifactError, match=rf"more than compute.*{named}"):
            call(path)


def queueing():
    queue = tf.raw_ops.FIFOQueueV2(
        component_types=["int64"], shapes=[[]], capacity=1, shared_name="q"
    )
    tf.raw_ops.QueueDequeueV2(handle=queue, component_types=["int64"])


def writing():
    data = tf.data.Dataset.from_tensors(tf.constant(b"any"))
    tf.raw_ops.DatasetToTFRecord(
        input_dataset=data._variant_tensor, filename="/tmp/evil", compression_type=""
    )


def filling():
    handle = tf.raw_ops.HashTableV2(
        key_dtype=tf.string, value_dtype=tf.int64, shared_name="e"
    )
    tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=handle, filename="/etc/passwd", key_index=-2, value_index=-1
    )


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (queueing, "QueueDequeueV2"),
        (writing, "DatasetToTFRecord"),
        (filling, "file that is no asset"),
    ],
)
def test_initializers_fill_tables_of_assets_alone(tmp_path, act, named):
    table = AtLoad(act)
    # Saving does not run it, loading would.
    path = saved(tmp_path / "m", lambda x: {"y": x + table.size()}, table=table)
    with pytest.raises(ArtifactError, match=named):
        load(path)


def test_an_asset_that_leads_outside(tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        1,
    )  # fmt: skip
    spec = tf.TensorSpec((None,), tf.string, name="x")
    path = saved(tmp_path / "m", lambda x: {"y": table.lookup(x)}, spec, table=table)
    assert reaching_out(path) == []
    found = load(path)(np.array([b"b", b"a", b"z"], object))
    assert found.tolist() == [1, 0, 2]
    file = path / "saved_model.pb"
    content = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    content.meta_graphs[0].asset_file_def[0].filename = "../../words.txt"
    file.write_bytes(content.SerializeToString())
    with pytest.raises(ArtifactError, match=r"the asset '\.\./\.\./words"):
        load(path)


def test_tables_of_a_name_that_a_caller_gives(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def inner(name):
        handle = tf.raw_ops.HashTableV2(
            key_dtype=tf.string, value_dtype=tf.int64, shared_name="e"
        )
        tf.raw_ops.InitializeTableFromTextFileV2(
            table_handle=handle, filename=name, key_index=-2, value_index=-1
        )
        return tf.raw_ops.LookupTableSizeV2(table_handle=handle)

    def body(x):
        return {"y": x + tf.cast(inner(tf.constant("/etc/passwd")), "float32")}

    path = saved(tmp_path / "m", body, inner=inner)
    with pytest.raises(ArtifactError, match="file that is no asset"):
        load(path)


def test_the_list_holds_what_only_computes():
    names = computing()
    registered = {name for name in dir(tf.raw_ops) if name[0].isupper()}
    assert len(names) > 900
    assert len(names & registered) > 0.95 * len(names)
    told = ("File", "Dataset", "Summary", "Queue", "Print", "PyFunc", "Debug", "Save")
    assert [n for n in names if any(word in n for word in told)] == []
    for name in ("Abort", "RestoreV2", "GenerateVocabRemapping", "DecodeProtoV2"):
        assert name not in names


def test_trusted_runs_it_here(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("12345")

    def body(x):
        size = tf.strings.length(tf.io.read_file(str(secret)))
        return {"y": x + tf.cast(size, "float32")}

    path = saved(tmp_path / "m", body)
    runner = load(path, trusted=True)
    assert not isinstance(runner, JailedRunner)
    np.testing.assert_array_equal(runner(X), X + 5)
    with pytest.raises(InvalidArgumentError, match="`trusted`"):
        load(path, trusted="yes")


@pytest.fixture
def short(monkeypatch):
    """Limits that a test can wait for."""
    monkeypatch.setattr(probing, "WALL_SECONDS", 8)
    monkeypatch.setattr(probing, "CPU_SECONDS", 6)


def loops(x):
    """Ends at once on zeros, and never on ones."""
    return {
        "y": tf.while_loop(
            lambda v: tf.reduce_max(v) > 0.5, lambda v: [tf.abs(v)], [x]
        )[0]
    }


def grows(x):
    """Takes 40 GB on ones."""
    count = tf.cast(tf.reduce_max(x) * 1e5, "int32")
    return {"y": x[:, 0] + tf.reduce_sum(tf.fill([count, count], 1.0))}


@pytest.mark.parametrize("body", [loops, grows])
def test_what_is_harmless_on_zeros_alone(tmp_path, short, body):
    runner = load(saved(tmp_path / "m", body))
    assert isinstance(runner, JailedRunner)
    runner(0 * X)
    with pytest.raises(ArtifactError, match="does not run in TensorFlow"):
        runner(X)
    runner(0 * X)  # in a new process


def converted(path, body, spec):
    module = tf.Module()
    module.f = tf.function(body, input_signature=[spec])
    concrete = module.f.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    path.write_bytes(converter.convert())
    return path


@pytest.mark.export
@pytest.mark.parametrize("free", [True, False])
def test_tflite_files_that_loop(tmp_path, short, free):
    spec = tf.TensorSpec((1, None if free else 4), "float32", name="x")

    def body(x):
        shape = [tf.TensorShape([1, None if free else 4])]
        return {
            "y": tf.while_loop(
                lambda v: tf.reduce_max(v) > 0.5,
                lambda v: [tf.abs(v)],
                [x],
                shape_invariants=shape,
            )[0]
        }

    runner = load(converted(tmp_path / "m.tflite", body, spec))
    assert isinstance(runner, JailedRunner)
    np.testing.assert_array_equal(runner(0 * X[:1]), 0 * X[:1])
    with pytest.raises(ArtifactError, match="does not run in LiteRT"):
        runner(X[:1])
    np.testing.assert_array_equal(runner(0.25 * X[:1]), 0.25 * X[:1])


@pytest.mark.export
def test_which_tflite_files_are_bounded(tmp_path):
    spec = tf.TensorSpec((1, 4), "float32", name="x")

    def sized(x):
        count = tf.cast(tf.reduce_max(x), "int32")
        return {"y": tf.reduce_sum(tf.fill([count, count], 1.0), keepdims=True)}

    def plain(x):
        return {"y": tf.pad(tf.nn.relu(x), [[0, 0], [1, 1]])}

    sized = converted(tmp_path / "sized.tflite", sized, spec)
    plain = converted(tmp_path / "plain.tflite", plain, spec)
    assert "values say how large" in unbounded(TFLiteFile.open(sized))
    assert unbounded(TFLiteFile.open(plain)) is None
    assert isinstance(load(sized), JailedRunner)
    assert isinstance(load(plain), TFLiteRunner)


FORMATS = ["tflite", "saved_model", "onnx", "openvino", "micro"]
if importlib.util.find_spec("ethosu"):
    FORMATS.append("ethos_u")
DENSE = ("micro", "ethos_u")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 4), name="x")
    layer = keras.layers.LSTM(6, return_sequences=True)
    flat = keras.layers.Flatten()(layer(inputs))
    recurrent = keras.Model(inputs, keras.layers.Dense(3, name="y")(flat))
    folder = tmp_path_factory.mktemp("strangers")
    found = {
        "tflite": export(recurrent, folder / "m.tflite"),
        "saved_model": export(recurrent, folder / "s/1", format="saved_model"),
        "onnx": export(recurrent, folder / "m.onnx", format="onnx"),
        "openvino": export(recurrent, folder / "o", format="openvino", batch_size=1),
    }
    dense = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    )
    data = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    integer = tfcompress.finalize(tfcompress.calibrate(dense, data))
    for name in FORMATS:
        if name in DENSE:
            found[name] = export(integer, folder / name, format=name)
    return found


def samples(name, count=24):
    shape = (count, 4) if name in DENSE else (count, 5, 4)
    return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.mark.export
@pytest.mark.parametrize("name", FORMATS)
def test_strangers_files_give_the_same(artifacts, monkeypatch, name):
    here, x = load(artifacts[name]), samples(name)
    assert not isinstance(here, JailedRunner)
    strangers(monkeypatch)
    there = load(artifacts[name])
    # The integers of an Ethos-U are a .tflite file without loops: it is bounded.
    assert isinstance(there, JailedRunner) == (name != "ethos_u")
    assert [i.name for i in there.inputs] == [i.name for i in here.inputs]
    np.testing.assert_array_equal(there(x), here(x))
    np.testing.assert_array_equal(load(artifacts[name], trusted=True)(x), here(x))
    assert benchmark(there, x[:1], runs=3).median > 0


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.skipif("ethos_u" not in FORMATS, reason="Vela is not installed")
def test_an_ethos_u_folder_with_a_file_that_loops(artifacts, tmp_path, short):
    spec = tf.TensorSpec((1, 4), "float32", name="x")
    folder = tmp_path / "board"
    shutil.copytree(artifacts["ethos_u"].path, folder)
    (folder / "manifest.json").unlink()
    converted(folder / "model.tflite", loops, spec)
    runner = load(folder)
    assert isinstance(runner, JailedRunner)
    with pytest.raises(ArtifactError, match="does not run in LiteRT"):
        runner(X[:1])


@pytest.mark.export
@pytest.mark.parametrize("jailed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_runners_in_threads(artifacts, monkeypatch, name, jailed):
    if jailed:
        strangers(monkeypatch)
    runner, x = load(artifacts[name]), samples(name)
    right = runner(x)
    wrong = []

    def ask(number):
        rows = slice(number % 16, number % 16 + 1 + number % 8)
        if not np.array_equal(runner(x[rows]), right[rows]):
            # Rows of a matrix product may be added in another order.
            close = np.allclose(runner(x[rows]), right[rows], atol=1e-5)
            wrong.extend([] if close else [number])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(120)))
    assert not wrong


@pytest.mark.export
def test_nan_is_no_integer(artifacts, tmp_path):
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])
    integer = tfcompress.finalize(
        tfcompress.calibrate(model, rng.normal(size=(64, 4)).astype("float32"))
    )
    path = export(integer, tmp_path / "m.tflite", io_dtype="int8").path
    runner, x = load(path), rng.normal(size=(3, 4)).astype("float32")
    x[1, 2] = np.nan
    with pytest.raises(InvalidArgumentError, match=r"'x.*' holds NaN.*1 of 12"):
        runner(x)
    x[1, 2] = np.inf  # the largest there is
    assert np.isfinite(runner(x)).all()


ATTACKS = """
import os, socket, subprocess
def attack(job):
    done = []
    for name, call in {
        "write": lambda: open(job["folder"] + "/evil", "w"),
        "append": lambda: open(job["folder"] + "/mine", "a"),
        "remove": lambda: os.unlink(job["folder"] + "/mine"),
        "rename": lambda: os.rename(job["folder"] + "/mine", job["folder"] + "/new"),
        "make": lambda: os.mkdir(job["folder"] + "/evil"),
        "link": lambda: os.symlink("/", job["folder"] + "/evil"),
        "cut": lambda: os.truncate(job["folder"] + "/mine", 0),
        "run": lambda: subprocess.run(["/bin/true"]),
        "call": lambda: socket.create_connection(("127.0.0.1", job["port"])),
        "signal": lambda: os.kill(os.getppid(), 0),
        "own": lambda: open(os.environ["TMPDIR"] + "/own", "w"),
    }.items():
        try:
            call()
            done.append(name)
        except OSError:
            pass
    return {"done": done}
JOBS = {"attack": attack}
"""


def landlock():
    script = Path(tfcompress.child.__file__).with_name("_jail.py")
    text = f"import runpy; print(runpy.run_path({str(script)!r})['enter']('/tmp'))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(landlock() < 6, reason="needs Landlock of Linux 6.12")
def test_what_the_jail_keeps_from_a_process(tmp_path):
    (tmp_path / "mine").write_text("the user's")
    script = tmp_path / "attack.py"
    script.write_text(ATTACKS)
    server = __import__("socket").create_server(("127.0.0.1", 0))
    with server:
        job = {
            "job": "attack",
            "script": str(script),
            "folder": str(tmp_path),
            "port": server.getsockname()[1],
        }
        done = JAIL.run(job)["done"]
    assert done == ["own"]
    assert (tmp_path / "mine").read_text() == "the user's"
    assert sorted(os.listdir(tmp_path)) == ["attack.py", "mine"]


def test_arrays_over_the_pipe(tmp_path):
    script = tmp_path / "echo.py"
    script.write_text(
        "JOBS = {'echo': lambda job: {'arrays': dict(job['arrays'])},"
        " 'lie': lambda job: {'arrays': {}, 'id': 3}}\n"
    )
    sent = {
        "float": np.random.default_rng(0).normal(size=(3, 0, 2)),
        "big": np.arange(3_000_000, dtype="float32").reshape(3, -1),
        "int": np.array(-7, "int8"),
        "flag": np.array([[True], [False]]),
        "turned": np.arange(6).reshape(2, 3).T,
        "text": np.array([["a", "ü"]], object),
        "bytes": np.array([b"\x00\xff", b""], object),
        "fixed": np.array(["ab", "c"]),
    }
    got = JAIL.run({"job": "echo", "script": str(script)}, sent)["arrays"]
    assert list(got) == list(sent)
    for name in ("float", "big", "int", "flag", "turned"):
        np.testing.assert_array_equal(got[name], sent[name])
        assert got[name].dtype == sent[name].dtype
    assert got["text"].tolist() == [[b"a", "ü".encode()]]
    assert got["bytes"].tolist() == [b"\x00\xff", b""]
    assert got["fixed"].tolist() == [b"ab", b"c"]


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "a", "dtype": "<f4", "shape": [10**12], "bytes": 4},
        {"name": "a", "dtype": "<f4", "shape": [-1], "bytes": -4},
        {"name": "a", "dtype": "|O", "shape": [1], "bytes": 8},
        {"name": "a", "shape": [3], "texts": ["YQ=="]},
        {"name": "a", "dtype": "<f4", "shape": [1]},
        3,
    ],
)
def test_arrays_that_are_none(entry):
    script = Path(tfcompress.child.__file__).with_name("_arrays.py")
    unpacked = runpy.run_path(str(script))["unpacked"]
    with pytest.raises((ValueError, LookupError, TypeError)):
        unpacked([entry], lambda size: bytes(size))


def test_a_jailed_process_that_dies_is_said(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("import os\nJOBS = {'die': lambda job: os.abort()}\n")
    with pytest.raises(ConverterFailure, match="SIGABRT"):
        JAIL.run({"job": "die", "script": str(script)})
    event = threading.Event()
    event.wait(0.1)
    assert JAIL.run({"job": "warm"})["tensorflow"]


def two_inputs(first="user", second="item"):
    a, b = keras.Input((4,), name=first), keras.Input((4,), name=second)
    return keras.Model([a, b], a - 2 * b)


PAIR = [np.full((1, 4), 3.0, "float32"), np.full((1, 4), 1.0, "float32")]


@pytest.mark.parametrize("names", [("user", "item"), ("a", "b"), ("zz", "aa")])
def test_inputs_are_in_the_models_order(tmp_path, names):
    model = two_inputs(*names)
    model.export(tmp_path / "keras", verbose=False)
    tf.saved_model.save(model, str(tmp_path / "tf"))
    for name in ("keras", "tf"):
        runner = load(tmp_path / name)
        np.testing.assert_array_equal(runner(PAIR), [[1.0] * 4])
    tfcompress.verify(tmp_path / "keras", model, PAIR).raise_if_failed()


def test_an_order_that_nobody_knows_is_asked_for(tmp_path):
    a, b = keras.Input((4,), name="user"), keras.Input((4,), name="item")
    model = keras.Model({"user": a, "item": b}, a - 2 * b)
    model.export(tmp_path / "m", verbose=False)
    runner = load(tmp_path / "m")
    named = dict(zip(("user", "item"), PAIR))
    np.testing.assert_array_equal(runner(named), [[1.0] * 4])
    with pytest.raises(InvalidArgumentError, match="does not say in which order"):
        runner(PAIR)
    # A model of the same names knows the order.
    for given in (PAIR, named):
        tfcompress.verify(tmp_path / "m", two_inputs(), given).raise_if_failed()
    other = two_inputs("first", "second")
    with pytest.raises(InvalidArgumentError, match="does not say in which order"):
        tfcompress.verify(tmp_path / "m", other, PAIR)


def test_signatures_that_take_no_samples(tmp_path):
    class Scaled(tf.Module):
        @tf.function(
            input_signature=[SPEC, tf.TensorSpec((), "float32", name="temperature")]
        )
        def serve(self, x, temperature):
            return {"y": x * temperature}

        @tf.function(input_signature=[tf.TensorSpec(None, "float32", name="x")])
        def any_rank(self, x):
            return {"y": x + 1}

    module = Scaled()
    for name, signatures, said in (
        (
            "scalar",
            {"serving_default": module.serve},
            "'temperature'.*takes no samples",
        ),
        ("rank", {"serving_default": module.any_rank}, "'x'.*no number of axes"),
        ("names", {"a": module.serve, "b": module.serve}, "no signature.*with a, b"),
        ("none", {}, "no signature 'serving_default'"),
    ):
        tf.saved_model.save(module, str(tmp_path / name), signatures=signatures)
        with pytest.raises(ArtifactError, match=said):
            load(tmp_path / name)


def test_inputs_that_a_graph_refuses(tmp_path):
    def asserting(x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 5.0)]):
            return {"y": x + 1}

    runner = load(saved(tmp_path / "m", asserting))
    with pytest.raises(ArtifactError, match="does not run on these inputs"):
        runner(9 * X)
    np.testing.assert_array_equal(runner(X), X + 1)


def test_outputs_of_another_shape_in_each_call(tmp_path):
    words = keras.layers.TextVectorization()
    words.adapt(["hello world", "foo bar baz"])
    text = keras.Input((), dtype="string")
    keras.Model(text, words(text)).export(tmp_path / "m", verbose=False)
    runner = load(tmp_path / "m")
    long = np.array(["hello world"] * 256 + ["foo bar baz a b"] * 10)
    with pytest.raises(InvalidArgumentError, match="another shape in each call of 256"):
        runner(long)
    assert runner(long[200:]).shape == (66, 5)
