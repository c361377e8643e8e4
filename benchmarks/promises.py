"""Whether the promises of docs/safety.md hold, for graphs, writers, kills and threads.

    python benchmarks/promises.py operations --count 2000
    python benchmarks/promises.py writers --count 1000
    python benchmarks/promises.py kills --count 200
    python benchmarks/promises.py threads --count 2000

`operations` puts one operator, drawn from all that TensorFlow registers, into a valid
SavedModel: into its signature, or into the initializer that runs when it is loaded. A
finding is a file outside, a process that ended, and what runs longer than its limit.
`writers` lets eight processes write one file, and one directory, in each round: one may
succeed. `kills` ends processes by SIGTERM and SIGKILL while they export, pack, cache
and search; a finding is what the next call leaves there, and a child after 5 seconds.
`threads` calls one runner of each format from 16 threads.

Each prints its findings and ends with their number.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WRITERS, THREADS, ORPHAN_SECONDS = 8, 16, 5


# ---------------------------------------------------------------- operations


def template(folder):
    """Saves a SavedModel with a variable, a signature and an initializer."""
    import tensorflow as tf

    class Table(tf.saved_model.experimental.TrackableResource):
        def __init__(self):
            super().__init__("CPU")
            self._handle = self._create_resource()

        def _create_resource(self):
            return tf.raw_ops.MutableHashTableV2(
                key_dtype=tf.string, value_dtype=tf.int64, shared_name="t"
            )

        def _initialize(self):
            tf.raw_ops.NoOp()

        def _destroy_resource(self):
            pass

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.table = tf.Variable(2.0), Table()

        @tf.function(input_signature=[tf.TensorSpec((None, 4), "float32", name="x")])
        def serve(self, x):
            size = tf.raw_ops.LookupTableSizeV2(table_handle=self.table.resource_handle)
            return {"y": x * self.weight + tf.cast(size, "float32")}

    model = Model()
    path = str(folder / "template")
    tf.saved_model.save(model, path, signatures={"serving_default": model.serve})
    return Path(path)


def with_operator(source, target, definition, place, evil, rng):
    """Copies a SavedModel and puts one operator into a function of it."""
    from tensorflow.core.framework import node_def_pb2, types_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(source, target)
    file = target / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    library = model.meta_graphs[0].graph_def.library
    mark = "initializer" if place == "initializer" else "inference_serve"
    function = next(f for f in library.function if mark in f.signature.name)
    node = node_def_pb2.NodeDef(name="stranger", op=definition.name)
    for attribute in definition.attr:
        value = node.attr[attribute.name]
        if attribute.HasField("default_value") and rng.random() < 0.8:
            value.CopyFrom(attribute.default_value)
            continue
        allowed = attribute.allowed_values.list
        if attribute.type == "type":
            value.type = allowed.type[0] if allowed.type else types_pb2.DT_FLOAT
        elif attribute.type == "int":
            value.i = max(attribute.minimum, 1)
        elif attribute.type == "string":
            value.s = allowed.s[0] if allowed.s else str(evil).encode()
        elif attribute.type == "bool":
            value.b = rng.random() < 0.5
        elif attribute.type == "shape":
            value.shape.unknown_rank = False
        elif attribute.type == "func":
            value.func.name = function.signature.name
        elif attribute.type == "list(type)":
            value.list.type.append(types_pb2.DT_FLOAT)
        elif attribute.type == "list(string)":
            value.list.s.append(str(evil).encode())
        elif attribute.type.startswith("list("):
            value.list.SetInParent()
    for number, argument in enumerate(definition.input_arg):
        kind = argument.type or node.attr[argument.type_attr].type
        constant = function.node_def.add(name=f"given{number}", op="Const")
        tensor = constant.attr["value"].tensor
        if kind == types_pb2.DT_STRING:
            tensor.string_val.append(str(evil).encode())
        elif kind in (types_pb2.DT_INT32, types_pb2.DT_INT16, types_pb2.DT_UINT8):
            tensor.int_val.append(1)
        elif kind == types_pb2.DT_INT64:
            tensor.int64_val.append(1)
        elif kind == types_pb2.DT_BOOL:
            tensor.bool_val.append(True)
        elif kind in (types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT, 0):
            constant.op = "NoOp"  # refused by the graph, as long as nothing is found
        else:
            kind = kind or types_pb2.DT_FLOAT
            tensor.float_val.append(1.0)
        if constant.op == "Const":
            tensor.dtype = kind
            constant.attr["dtype"].type = kind
            node.input.append(f"given{number}:output:0")
        else:
            constant.attr.clear()
            node.input.append(f"^given{number}")
    function.node_def.append(node)
    for other in function.node_def:
        ours = other.name == "stranger" or other.name.startswith("given")
        if not ours and (other.op == "Identity" or place == "initializer"):
            other.input.append("^stranger")
            break
    function.control_ret["stranger"] = "stranger"
    function.signature.control_output.append("stranger")
    file.write_bytes(model.SerializeToString(deterministic=True))


def operations(count, seed):
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.framework import op_def_registry

    import tfcompress
    from tfcompress.child import probing

    probing.WALL_SECONDS, probing.CPU_SECONDS = 20, 20
    names = [name for name in dir(tf.raw_ops) if name[0].isupper()]
    definitions = [d for d in map(op_def_registry.get, names) if d is not None]
    rng, findings, told = random.Random(seed), [], Counter()
    folder = Path(tempfile.mkdtemp())
    source = template(folder)
    for number in range(count):
        definition = rng.choice(definitions)
        place = rng.choice(("signature", "initializer"))
        evil, target = folder / "outside" / "evil", folder / "model"
        evil.parent.mkdir(exist_ok=True)
        with_operator(source, target, definition, place, evil, rng)
        before = time.monotonic()
        try:
            runner = tfcompress.load(target)
            runner(np.ones((1, 4), "float32"))
            told["ran"] += 1
        except tfcompress.ArtifactError as error:
            words = "more than compute" in str(error)
            told["refused by name" if words else "did not run"] += 1
        except Exception as error:
            findings.append(
                [definition.name, place, f"{type(error).__name__}: {error}"]
            )
        if time.monotonic() - before > 3 * probing.WALL_SECONDS:
            findings.append([definition.name, place, "longer than its limit"])
        if any(evil.parent.iterdir()):
            findings.append([definition.name, place, "a file outside"])
        shutil.rmtree(evil.parent)
        shutil.rmtree(target)
        if number % 100 == 99:
            print(number + 1, dict(told), flush=True)
    shutil.rmtree(folder)
    return {"count": count, "outcomes": dict(told), "findings": findings}


# ---------------------------------------------------------------- writers


def write(number, folder, rounds, barrier, results):
    """Takes part in each round; notes whether it was told that it succeeded."""
    from tfcompress.core.errors import ExportError
    from tfcompress.exporters.publishing import staged

    for turn in range(rounds):
        for kind in ("file", "directory"):
            barrier.wait()
            target = Path(folder) / str(turn) / kind
            try:
                with staged(target) as stage:
                    if kind == "file":
                        stage.write_text(str(number))
                    else:
                        stage.mkdir()
                        (stage / "one").write_text(str(number))
            except ExportError:
                continue
            results.put((turn, kind, number))
    results.put(None)


def writers(count, _):
    context = multiprocessing.get_context("spawn")
    folder, barrier = tempfile.mkdtemp(), context.Barrier(WRITERS)
    results = context.Queue()
    processes = [
        context.Process(target=write, args=(n, folder, count, barrier, results))
        for n in range(WRITERS)
    ]
    for process in processes:
        process.start()
    won, ended = {}, 0
    while ended < WRITERS:
        entry = results.get()
        if entry is None:
            ended += 1
        else:
            won.setdefault(entry[:2], []).append(entry[2])
    findings = []
    for turn in range(count):
        for kind in ("file", "directory"):
            told = won.get((turn, kind), [])
            path = Path(folder) / str(turn) / kind
            there = (path / "one" if kind == "directory" else path).read_text()
            if [str(number) for number in told] != [there]:
                findings.append([turn, kind, f"{told} were told, {there} is there"])
        if len(list((Path(folder) / str(turn)).iterdir())) != 2:
            findings.append([turn, "left behind"])
    shutil.rmtree(folder)
    return {"count": count, "writers": WRITERS, "findings": findings}


# ---------------------------------------------------------------- kills


def act(action, folder):
    """Does one thing in a directory; what it needs is made anew in each process."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tfcompress

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(256, "relu"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    x = np.random.default_rng(0).normal(size=(2000, 64)).astype("float32")
    y = np.argmax(x[:, :3], 1)
    print("begins", flush=True)
    if action == "export":
        number = len(list(folder.glob("*.tflite")))
        tfcompress.export(model, folder / f"{number}.tflite")
        tfcompress.export(model, folder / "served", format="saved_model")
    elif action == "pack":
        if not (folder / "m.tflite").exists():
            tfcompress.export(model, folder / "m.tflite")
        number = len(list(folder.glob("*.tfc")))
        tfcompress.pack(folder / "m.tflite", folder / f"{number}.tfc")
    elif action == "cache":
        batches = tf.data.Dataset.from_tensor_slices(x).batch(10)
        tfcompress.cache_teacher(model, batches, folder / "cache")
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        model.fit(x, y, epochs=1, verbose=0, shuffle=False)
        budget = tfcompress.Budget(max_packed_bytes="60%", max_metric_drop=0.5)
        search = tfcompress.Search(2, 2, directory=str(folder), verbose=0)
        tfcompress.compress(model, (x, y), (x, y), budget, search=search)


ACTIONS = ("export", "pack", "cache", "search")


def started(action, folder, temporary, mark):
    return subprocess.Popen(
        [sys.executable, __file__, "act", action, str(folder)],
        env={**os.environ, "TMPDIR": str(temporary), "PROMISES_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=open(folder.parent / "stderr.txt", "w"),
        text=True,
    )


def marked(mark):
    """Returns the processes that were started with a mark, and run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"PROMISES_MARK={mark}".encode() in text.split(b"\0") and state != "Z":
            found.append(int(folder.name))
    return found


def left_behind(folder, temporary):
    names = [str(p.relative_to(folder)) for p in folder.rglob("*")]
    names = [name for name in names if "tfcompress-" in name]
    return names + [p.name for p in temporary.iterdir() if "tfcompress" in p.name]


def kills(count, seed):
    rng, findings, told = random.Random(seed), [], Counter()
    folder = Path(tempfile.mkdtemp())
    for number in range(count):
        action = ACTIONS[number % len(ACTIONS)]
        sign = rng.choice((signal.SIGTERM, signal.SIGKILL))
        # A directory for a few kills, so that one finds what others left.
        place = folder / action / str(number // 12)
        temporary = folder / "tmp" / action
        for path in (place, temporary):
            path.mkdir(parents=True, exist_ok=True)
        mark = f"{os.getpid()}-{number}"
        child = started(action, place, temporary, mark)
        child.stdout.readline()
        time.sleep(rng.uniform(0, {"pack": 0.3, "cache": 1.5}.get(action, 4)))
        child.send_signal(sign)
        child.wait()
        told[f"{action} {sign.name}"] += 1
        end = time.monotonic() + ORPHAN_SECONDS
        while marked(mark) and time.monotonic() < end:
            time.sleep(0.1)
        if orphans := marked(mark):
            findings.append([number, action, sign.name, f"{len(orphans)} orphans"])
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
        if number % 12 >= 8:  # the next call, after several kills
            after = started(action, place, temporary, mark)
            after.stdout.read()
            if after.wait():
                said = (place.parent / "stderr.txt").read_text().splitlines()[-1:]
                findings.append([number, action, "the next call failed", *said])
            if left := left_behind(place, temporary):
                findings.append([number, action, sign.name, left[:4]])
        if number % 20 == 19:
            print(number + 1, dict(told), findings, flush=True)
    shutil.rmtree(folder)
    return {"count": count, "kills": dict(told), "findings": findings}


# ---------------------------------------------------------------- threads


def threads(count, _):
    import keras
    import numpy as np

    import tfcompress
    from tfcompress.exporters import manifest

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((16,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(4)]
    )
    x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    integer = tfcompress.finalize(tfcompress.calibrate(model, x))
    folder = Path(tempfile.mkdtemp())
    artifacts = {
        "tflite": tfcompress.export(integer, folder / "m.tflite"),
        "saved_model": tfcompress.export(integer, folder / "s/1", format="saved_model"),
        "onnx": tfcompress.export(integer, folder / "m.onnx", format="onnx"),
        "openvino": tfcompress.export(integer, folder / "o", format="openvino"),
        "micro": tfcompress.export(integer, folder / "c", format="micro"),
    }
    findings, seconds = [], {}
    for jailed in (False, True):
        if jailed:
            manifest._MADE_HERE.clear()
            manifest._FILES_MADE_HERE.clear()
        for name, artifact in artifacts.items():
            runner = tfcompress.load(artifact)
            right = runner(x)
            wrong = Counter()

            def ask(thread, runner=runner, right=right, wrong=wrong):
                rng = np.random.default_rng(thread)
                for _ in range(count):
                    start = int(rng.integers(0, 56))
                    rows = slice(start, start + int(rng.integers(1, 8)))
                    try:
                        equal = np.allclose(runner(x[rows]), right[rows], atol=1e-5)
                    except Exception as error:
                        wrong[type(error).__name__] += 1
                    else:
                        wrong["wrong"] += not equal

            begin = time.perf_counter()
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(ask, range(THREADS)))
            label = f"{name}{' in the jail' if jailed else ''}"
            seconds[label] = round(time.perf_counter() - begin, 1)
            bad = {kind: n for kind, n in wrong.items() if n}
            print(label, seconds[label], "s", bad, flush=True)
            findings += [[label, bad]] if bad else []
    shutil.rmtree(folder)
    return {
        "count": count,
        "threads": THREADS,
        "seconds": seconds,
        "alive": threading.active_count(),
        "findings": findings,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["operations", "writers", "kills", "threads"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = globals()[options.what](options.count, options.seed)
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return min(len(result["findings"]), 250)


if __name__ == "__main__":
    if sys.argv[1:2] == ["act"]:
        act(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
