"""Hostile and broken files against everything that reads one.

    python benchmarks/fuzz.py --inputs 100000 --json fuzz.json

Each loader gets files that were valid before they were changed (`_mutations.py`). What
is allowed: it works, or it raises one of the library's own errors and leaves nothing
behind. Everything else is a finding: another exception, the death of the process, more
than five minutes, more than 2 GB of memory beyond what the libraries take, a file made
outside of the target folder, a process started other than the converter, a module
imported that a file asked for.

Inputs are numbered, and the same number is the same input: `--only tflite:4711` repeats
one. Results are written after each batch. A run that was stopped goes on there, and
tries again first what was found.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _mutations as mutations

BATCH = 250
SECONDS = 300
CPU_SECONDS = 8  # of the child process for one file; importing TensorFlow takes most
MEMORY = 2 << 30


# ---------------------------------------------------------------- the corpus


def make_corpus(folder):
    """Writes one or more valid files for each loader, and the bait for code."""
    import keras
    import numpy as np

    import tfcompress
    from tfcompress.compression.recipe import Recipe
    from tfcompress.exporters.tflite.metadata import ModelDescription

    keras.utils.set_random_seed(7)
    folder.mkdir(parents=True)
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    plain = keras.Model(image, layers.Dense(3, name="scores")(x), name="plain")
    steps = keras.Input((5, 3), name="steps")
    recurrent = keras.Model(steps, layers.GRU(4, unroll=True)(steps), name="recurrent")
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    integer = tfcompress.finalize(tfcompress.calibrate(plain, images))

    plain.save(folder / "plain.keras")
    integer.save(folder / "integer.keras")
    recurrent.save(folder / "recurrent.keras")
    plain.save(folder / "plain.h5")
    tfcompress.export(plain, folder / "plain.tflite")
    tfcompress.export(
        integer,
        folder / "integer.tflite",
        description=ModelDescription("fuzzed", labels=("a", "b", "c")),
    )
    tfcompress.export(recurrent, folder / "recurrent.tflite")
    tfcompress.export(plain, folder / "plain.onnx", format="onnx")
    tfcompress.export(plain, folder / "served" / "1", format="saved_model")
    wide = keras.Sequential([keras.Input((64,), name="x"), layers.Dense(32)])
    wide.layers[0].kernel.assign(np.round(wide.layers[0].kernel * 20) / 20)
    tfcompress.export(
        wide, folder / "compact" / "1", format="saved_model", weights="compact"
    )
    tfcompress.export(plain, folder / "openvino", format="openvino")
    tfcompress.export(integer, folder / "micro", format="micro")
    for name in ("plain.tflite", "integer.tflite", "plain.keras", "served/1"):
        packed = name.replace("/", "-").replace(".", "-") + ".tfc"
        tfcompress.pack(folder / name, folder / packed)
    for name in Recipe.ready_names():
        Recipe.ready(name).save(folder / f"{name}.yaml")
        Recipe.ready(name).save(folder / f"{name}.json")
    np.savez(folder / "data.npz", x=images, y=np.arange(32))
    np.savez_compressed(folder / "packed.npz", x=images, y=np.arange(32))
    make_cache(folder / "cache")


def make_cache(folder):
    """Writes a small, complete teacher cache."""
    import numpy as np

    from tfcompress.distillation.teachers.cache_files import CacheFiles

    files = CacheFiles(folder, IDENTITY)
    for number in range(4):
        values = np.full((8, 3), number, "float16")
        files.append([values, values[:, :2].astype("float32")], number)
    files.commit(complete=True)


IDENTITY = {"teacher": "abc", "layers": [], "dtype": "float16"}

# ---------------------------------------------------------------- the loaders


def _run(path):
    """Loads an artifact and runs it once on zeros."""
    import numpy as np

    import tfcompress

    runner = tfcompress.load(path, threads=1)
    if any(None in info.shape[1:] for info in runner.inputs):
        return
    count = runner.batch_size or 1
    feeds = {
        info.name: np.zeros((count, *info.shape[1:]), info.dtype)
        for info in runner.inputs
        if info.dtype != "string"
    }
    runner(feeds, raw=True)


def _inspect(path):
    from tfcompress.cli.commands.inspect import described

    described(path)


def _labels(path):
    from tfcompress.exporters.tflite.metadata import read_labels

    read_labels(path.read_bytes())


def _pack(path):
    import io

    import tfcompress

    tfcompress.pack(path, io.BytesIO())


def _unpack(path, target):
    import tfcompress

    tfcompress.unpack(path, target, max_size=1 << 28)


def _recipe(path):
    from tfcompress.compression.recipe import Recipe

    Recipe.load(path)


def _cache(path):
    import numpy as np

    from tfcompress.distillation.teachers.cache_files import CacheFiles

    files = CacheFiles(path, IDENTITY)
    if files.complete:
        for array in files.open_arrays():
            np.asarray(array[:1]).sum()


def _data(path):
    from tfcompress.cli.inputs import load_data

    load_data(str(path))


def _manifest(path):
    from tfcompress.exporters.manifest_file import changed_files, read_manifest

    read_manifest(path)
    changed_files(path)


def _any(change):
    """Returns a mutator for files that have no form of their own."""
    return lambda data, rng, path: change(data, rng)


def _of_tflite(data, rng, path):
    return mutations.of_bytes(data, rng)


def _of_text_or_bytes(data, rng, path):
    if path.suffix == ".json" and data.strip():
        return mutations.of_json_text(data, rng)
    return mutations.of_bytes(data, rng)


#: Loader -> (share of the inputs, seeds in the corpus, mutator, what reads it).
LOADERS = {
    "unpack": (22, ("*.tfc",), _any(mutations.of_archive), _unpack),
    "recipe": (14, ("*.yaml", "*.json"), _any(mutations.of_recipe), _recipe),
    "inspect tflite": (12, ("*.tflite",), _of_tflite, _inspect),
    "load tflite": (12, ("*.tflite",), _of_tflite, _run),
    "cache": (10, ("cache/",), _of_text_or_bytes, _cache),
    "data": (6, ("*.npz",), _any(mutations.of_zip), _data),
    "manifest": (5, ("served/1/",), _of_text_or_bytes, _manifest),
    "inspect keras": (6, ("*.keras",), _any(mutations.of_zip), _inspect),
    "inspect h5": (4, ("*.h5",), _any(mutations.of_bytes), _inspect),
    "pack": (3, ("*.tflite", "*.keras"), _any(mutations.of_bytes), _pack),
    "labels": (2, ("integer.tflite",), _any(mutations.of_bytes), _labels),
    "inspect onnx": (1.5, ("*.onnx",), _any(mutations.of_bytes), _inspect),
    "load onnx": (1, ("*.onnx",), _any(mutations.of_bytes), _run),
    "load saved_model": (0.6, ("served/1/",), _of_text_or_bytes, _run),
    "inspect saved_model": (0.3, ("served/1/",), _of_text_or_bytes, _inspect),
    "load compact": (0.2, ("compact/1/",), _of_text_or_bytes, _run),
    "pack saved_model": (0.2, ("served/1/",), _of_text_or_bytes, _pack),
    "load openvino": (0.1, ("openvino/",), _of_text_or_bytes, _run),
    "load micro": (0.1, ("micro/",), _of_text_or_bytes, _run),
}


def seeds_of(corpus, patterns):
    """Returns the valid files or folders that a loader's inputs are made from."""
    found = []
    for pattern in patterns:
        if pattern.endswith("/"):
            found.append(corpus / pattern)
        else:
            found += [
                p for p in sorted(corpus.glob(pattern)) if "manifest" not in p.name
            ]
    return found


def write_input(loader, number, corpus, folder):
    """Writes the input of this number and returns its path."""
    _, patterns, mutate, _ = LOADERS[loader]
    rng = random.Random(f"{loader}:{number}")
    source = rng.choice(seeds_of(corpus, patterns))
    path = folder / source.name
    if source.is_file():
        path.write_bytes(mutate(source.read_bytes(), rng, source))
        return path
    shutil.copytree(source, path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    manifests = [p for p in files if p.name == "manifest.json"]
    if loader == "manifest":
        files = manifests
    elif rng.random() < 0.7:
        for manifest in manifests:  # which would say that something is wrong
            manifest.unlink()
            files.remove(manifest)
    victim = rng.choice(files)
    if rng.random() < 0.03:
        victim.unlink()
    else:
        victim.write_bytes(mutate(victim.read_bytes(), rng, victim))
    if manifests and manifests[0].exists() and rng.random() < 0.5:
        _sign(path, manifests[0])
    return path


def _sign(path, manifest):
    """Writes the right SHA-256 into a manifest, as somebody hostile would."""
    import hashlib

    with contextlib.suppress(Exception):
        content = json.loads(manifest.read_text())
        for entry in content["files"]:
            data = (path / entry["path"]).read_bytes()
            entry["sha256"] = hashlib.sha256(data).hexdigest()
        manifest.write_text(json.dumps(content))


# ---------------------------------------------------------------- one process


class Watch:
    """Notes what Python does that a file must not bring it to do."""

    def __init__(self, allowed):
        self.allowed = tuple(str(path) for path in allowed)
        self.found = []
        self.on = False
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if not self.on:
            return
        try:
            self._look(event, arguments)
        except Exception as error:  # a hook that raises would change what it watches
            self.found.append(f"audit of {event}: {error}")

    def _look(self, event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = bool(mode and set(str(mode)) & set("wax+")) or bool(
                isinstance(flags, int)
                and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            )
            if writes and isinstance(path, str | bytes):
                self._wrote(os.fsdecode(path))
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.chmod"):
            # The last argument is the folder that a relative path is meant in.
            folder = arguments[-1]
            where = f"/proc/self/fd/{folder}" if folder not in (None, -1) else "."
            self._wrote(os.path.join(where, os.fsdecode(arguments[0])))
        elif event == "os.truncate":
            self._wrote(os.fsdecode(arguments[0]))
        elif event in ("os.rename", "os.link", "os.symlink"):
            self._wrote(os.fsdecode(arguments[1]))
        elif event == "subprocess.Popen":
            if os.fsdecode(arguments[0]) != sys.executable:
                self.found.append(f"started {arguments[0]}")
        elif event in ("os.system", "os.exec", "os.posix_spawn", "pickle.find_class"):
            self.found.append(f"{event} {arguments}")
        elif event == "import" and arguments[0] == "fuzz_canary":
            self.found.append("imported a module that a file asked for")

    def _wrote(self, path):
        if path == os.devnull or "__pycache__" in path:
            return
        path = os.path.realpath(path)
        if not path.startswith(self.allowed):
            self.found.append(f"wrote {path}")


def tree(folder):
    """Returns the names of everything below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def one(loader, number, corpus, room, watch):
    """Runs one input; returns `ok`, `refused` or what was found."""
    from tfcompress.core.errors import CompressionError

    inputs, target, scratch = room / "inputs", room / "target", room / "scratch"
    for folder in (inputs, target, scratch):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    path = write_input(loader, number, corpus, inputs)
    outside = tree(room / "cwd"), sorted(os.listdir(room)), sorted(os.listdir(inputs))
    read = LOADERS[loader][3]
    arguments = (path, target) if loader == "unpack" else (path,)
    watch.found.clear()
    watch.on = True
    result = "ok"
    try:
        read(*arguments)
    except CompressionError:
        result = "refused"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-3:]
        lines = " < ".join(
            f"{Path(f.filename).name}:{f.lineno}" for f in reversed(where)
        )
        result = f"{type(error).__name__}: {str(error)[:200]} ({lines})"
    finally:
        watch.on = False
    after = tree(room / "cwd"), sorted(os.listdir(room)), sorted(os.listdir(inputs))
    if after != outside:
        return f"files outside of the target: {after} instead of {outside}"
    if watch.found:
        return "; ".join(watch.found[:5])
    if result == "refused" and os.listdir(target):
        return f"refused, but left {os.listdir(target)[:5]}"
    left = [name for name in os.listdir(scratch) if name != ".ses"]  # ONNX Runtime's
    if len(left) > len(alive := held(scratch, left)):
        left = [name for name in left if name not in alive]
        return f"{result}, but left {left[:5]} in the temporary folder"
    return result


def prepare(room):
    """Makes the room of this process, and returns what watches over it."""
    for name in ("cwd", "scratch", "target", "inputs", "bait", "home"):
        (room / name).mkdir(parents=True, exist_ok=True)
    # Whoever imports it was talked into it by a file.
    (room / "bait" / "fuzz_canary.py").write_text("class Canary:\n    pass\n")
    sys.path.append(str(room / "bait"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(room / "scratch")
    os.environ["HOME"] = str(room / "home")  # OpenVINO counts its users there
    os.chdir(room / "cwd")
    return Watch(room / name for name in ("target", "scratch", "inputs", "home"))


def limit_memory(more):
    """Takes at most `more` bytes beyond what the process has now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


def child(loader, corpus, room, tasks, results):
    """Runs inputs by number, and says of each what came of it."""
    import warnings

    warnings.simplefilter("ignore")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    log = os.open(os.environ.get("FUZZ_LOG", os.devnull), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)  # libraries complain of what they read
    import keras
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import tensorflow as tf

    import tfcompress.child.probing as probing
    import tfcompress.cli
    import tfcompress.cli.commands.inspect  # noqa: F401

    keras.config.disable_interactive_logging()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])(keras.ops.ones((1, 2)))
    probing.CPU_SECONDS = CPU_SECONDS
    watch = prepare(room)
    limit_memory(MEMORY)
    while (number := tasks.get()) is not None:
        if number % 50 == 0:
            keras.backend.clear_session(free_memory=False)
        start = time.perf_counter()
        result = one(loader, number, corpus, room, watch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results.put((number, result, time.perf_counter() - start, peak))


# ---------------------------------------------------------------- all of them


def run_loader(loader, numbers, corpus, note):
    """Runs the inputs of a loader in processes that may die; calls `note` of each."""
    context = multiprocessing.get_context("spawn")
    waiting = list(numbers)
    while waiting:
        room = Path(tempfile.mkdtemp(prefix="fuzz-"))
        tasks, results = context.SimpleQueue(), context.Queue()
        process = context.Process(
            target=child, args=(loader, corpus, room, tasks, results)
        )
        process.start()
        try:
            tasks.put(waiting[0])
            deadline = time.monotonic() + 3 * SECONDS  # it imports TensorFlow first
            while waiting:
                try:
                    number, *rest = results.get(timeout=1)
                except Exception:
                    late = time.monotonic() > deadline
                    if process.is_alive() and not late:
                        continue
                    why = "takes too long" if late else f"died ({process.exitcode})"
                    note(waiting.pop(0), f"the process {why}", float(SECONDS), 0)
                    break
                note(number, *rest)
                waiting.pop(0)
                tasks.put(waiting[0] if waiting else None)
                deadline = time.monotonic() + SECONDS
        finally:
            process.kill()
            process.join()
            shutil.rmtree(room, ignore_errors=True)


class Results:
    """What was found so far, on disk after each batch."""

    def __init__(self, path):
        self.path = path
        self.content = {}
        if path is not None and path.exists():
            self.content = json.loads(path.read_text())

    def of(self, loader):
        """Returns the counts of one loader."""
        empty = {"inputs": 0, "ok": 0, "refused": 0, "findings": {}, "peak_mb": 0}
        return self.content.setdefault(loader, {**empty, "seconds": 0.0, "slowest": 0})

    def note(self, loader, number, result, seconds, peak):
        row = self.of(loader)
        row["inputs"] += 1
        row["seconds"] = round(row["seconds"] + seconds, 3)
        row["slowest"] = max(row["slowest"], round(seconds, 3))
        row["peak_mb"] = max(row["peak_mb"], peak // 1024)
        if result in ("ok", "refused"):
            row[result] += 1
        else:
            row["findings"][str(number)] = result
            print(f"{loader}:{number}  {result}", flush=True)
        if row["inputs"] % BATCH == 0:
            self.save()

    def take_back(self, loader):
        """Returns the numbers of findings, which count no longer: they run again."""
        row = self.of(loader)
        numbers = [int(number) for number in row["findings"]]
        row["findings"] = {}
        row["inputs"] -= len(numbers)
        return numbers

    def save(self):
        if self.path is not None:
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.content, indent=1) + "\n")
            part.replace(self.path)

    def table(self):
        lines = ["| loader | inputs | read | refused | findings | slowest |"]
        lines.append("|---|---|---|---|---|---|")
        for name, row in self.content.items():
            lines.append(
                f"| {name} | {row['inputs']:,} | {row['ok']:,} | {row['refused']:,} | "
                f"{len(row['findings'])} | {row['slowest']:.1f} s |"
            )
        return "\n".join(lines)


def shares(inputs, loaders):
    """Returns how many inputs each loader gets."""
    total = sum(share for share, *_ in LOADERS.values())
    counts = {n: round(inputs * LOADERS[n][0] / total) for n in loaders}
    if set(loaders) == set(LOADERS):
        counts[loaders[0]] += inputs - sum(counts.values())
    return counts


def held(folder, names):
    """Returns the folders of the two child processes, which live on with this one."""
    from tfcompress.core.ownership import remove_orphans

    remove_orphans(Path(folder))
    locks = [name for name in names if (Path(folder) / f"{name}.lock").exists()]
    return [*locks, *(f"{name}.lock" for name in locks)] if len(locks) <= 2 else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first input"
    )
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--corpus", type=Path, help="kept here, and used again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="LOADER:NUMBER, in this process")
    options = parser.parse_args()
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="fuzz-")) / "corpus"
    corpus = corpus.absolute()
    if not corpus.exists():
        make_corpus(corpus)
    if options.only:
        loader, number = options.only.rsplit(":", 1)
        room = Path(tempfile.mkdtemp(prefix="fuzz-"))
        print(room, one(loader, int(number), corpus, room, prepare(room)))
        return
    results = Results(options.json and options.json.absolute())
    for loader, count in shares(options.inputs, options.loaders).items():
        done = results.of(loader)["inputs"]
        again = results.take_back(loader)

        def note(*found, loader=loader):
            results.note(loader, *found)

        first = options.first
        numbers = [*again, *range(first + done, first + count)]
        run_loader(loader, numbers, corpus, note)
        results.save()
    print(results.table())


if __name__ == "__main__":
    main()
