"""What tfcompress costs beside a plain fit: start-up, memory, growth with size, export.

    python benchmarks/overhead.py --json overhead.json
    python benchmarks/overhead.py --parts memory --sizes 5 20
    python benchmarks/overhead.py --json new.json --against overhead.json

Every figure is taken in a process of its own that does one thing. "start-up" is the CPU
time of `import keras, tfcompress` beyond that of `import keras`. "memory" is the peak
of the process above what it held before the model was there, of a fit of some steps, as
a ratio to that of the plain fit, and the peak of what TensorFlow's allocator gave out.
The former differs from run to run by what the largest kernel takes, in plain fits too:
two threads work on what the optimizer computes, in an order of their own. Names that
begin with "TFMOT" are fits of TFMOT, measured where it is installed; their ratio is to
a plain fit of tf_keras. "update" is the time of a mask update: the time of a step that
updates masks less that of one that does not, both in one process, in turns. "export" is
export and verify beside the bare converter. Models are perceptrons with so many million
weights. What a step costs is measured by step_time.py.

With --against, figures are compared with those of an earlier file: ratios more than a
quarter larger make the command fail. Ratios are to something that was measured on the
same machine at the same time, so files of other machines will do.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from _jobs import run_jobs
from rich.console import Console
from rich.table import Table

SIZES = (1, 5, 20, 50)
BATCH, STEPS = 32, 6
PARTS = ("start-up", "memory", "update", "export")
VARIANTS = ("plain", "prune", "cluster", "qat", "distil", "distil cached", "all")
TFMOT = "TFMOT "
RIVALS = tuple(TFMOT + name for name in ("plain", "prune", "cluster", "qat"))
# How much larger a ratio may become before --against fails.
TOLERANCE = 1.25


def perceptron(keras, millions):
    """Returns a model of about so many million weights: two hidden layers."""
    width = round((784**2 / 4 + millions * 1e6) ** 0.5 - 784 / 2)
    layers = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])


def start_up(job):
    """Returns CPU seconds of imports, medians of processes that take turns.

    The first of each compiles the modules, as pip does; it is not counted.
    """
    programs = {"keras": "import keras", "ours": "import keras, tfcompress"}
    times = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(1 + job["rounds"]):
            for name, program in programs.items():
                times[name].append(_cpu_seconds(program, environment))
    keras, ours = (statistics.median(times[name][1:]) for name in ("keras", "ours"))
    return {"keras_seconds": keras, "beyond": ours - keras, "ratio": ours / keras}


def _cpu_seconds(program, environment):
    command = [sys.executable, "-c", program]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime, after.ru_stime
    return user + system - before.ru_utime - before.ru_stime


def memory(job):
    """Returns the peak memory of a fit above what the process held before it."""
    import numpy as np
    import tensorflow as tf

    keras, variants = _rival() if job["variant"].startswith(TFMOT) else _own()
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(BATCH * STEPS, 784)).astype("float32")
    y = rng.integers(0, 10, BATCH * STEPS)
    fit(keras, perceptron(keras, 0.1), [], x, y)  # what TensorFlow needs once
    held = _held()
    tf.config.experimental.reset_memory_stats("CPU:0")
    before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    make = variants[job["variant"].removeprefix(TFMOT)]
    made, callbacks, *attach = make(lambda: perceptron(keras, job["size"]))
    fit(keras, made, callbacks, x, y, *attach)
    given = tf.config.experimental.get_memory_info("CPU:0")["peak"] - before
    return {
        "peak_mb": (_peak() - held) / 1e6,
        "tensors_mb": given / 1e6,
        "held_mb": held / 1e6,
    }


def _own():
    import keras
    from step_time import OURS

    return keras, OURS


def _rival():
    """Returns the Keras of TFMOT and its variants, as `_own` returns ours."""
    import tf_keras
    from _tfmot_steps import clustered, pruned, quantized, sparsity

    update = sparsity.UpdatePruningStep
    return tf_keras, {
        "plain": lambda make: (make(), []),
        "prune": lambda make: (pruned(make(), STEPS), [update()]),
        "cluster": lambda make: (clustered(make()), []),
        "qat": lambda make: (quantized(make()), []),
    }


def fit(keras, model, callbacks, x, y, attach=lambda data: data):
    import tensorflow as tf

    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = attach(tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH))
    model.fit(data.take(STEPS), verbose=0, shuffle=False, callbacks=callbacks)


def _held():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def update(job):
    """Returns milliseconds of a step, and of a mask update."""
    import keras
    from _rounds import Fit

    import tfcompress

    turns = job["rounds"] * 4
    fits = {}
    for name, every in (("plain", None), ("never", 10**6), ("always", 1)):
        model = perceptron(keras, job["size"])
        callbacks = []
        if every:
            schedule = tfcompress.ConstantSparsity(0.8, frequency=every)
            callbacks = [tfcompress.PruneWeights(schedule, scope=job["scope"])]
        fits[name] = Fit(
            _training(keras, model, callbacks, turns), keras.callbacks.Callback, 4
        )
    times = {name: [] for name in fits}
    for _ in range(job["rounds"]):
        for name, one in fits.items():
            times[name].append(one.advance()[0] / 4)
    plain, never, always = (statistics.median(t[1:]) for t in times.values())
    return {
        "step_ms": 1000 * plain,
        "step_ratio": never / plain,
        "update_ms": 1000 * (always - never),
        "ns_a_weight": 1e9 * (always - never) / (job["size"] * 1e6),
    }


def _training(keras, model, callbacks, steps):
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.uniform(size=(BATCH * steps, 784)).astype("float32")
    y = rng.integers(0, 10, BATCH * steps)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def run(turn):
        model.fit(x, y, BATCH, verbose=0, shuffle=False, callbacks=[*callbacks, turn])

    return run


def export(job):
    """Returns seconds of the bare converter, of export and of verify."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tfcompress

    model = perceptron(keras, job["size"])
    samples = np.random.default_rng(0).uniform(size=(4, 784)).astype("float32")
    times = {"bare": [], "export": [], "verify": []}
    for turn in range(job["rounds"]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            clock = time.perf_counter()
            tf.lite.TFLiteConverter.from_keras_model(model).convert()
            marks = [time.perf_counter()]
            artifact = tfcompress.export(model, path)
            marks.append(time.perf_counter())
            tfcompress.verify(artifact, model, samples)
            marks.append(time.perf_counter())
        if turn:  # the first one starts processes
            for name, start, end in zip(times, [clock, *marks], marks):
                times[name].append(end - start)
    found = {f"{name}_seconds": statistics.median(t) for name, t in times.items()}
    ours = found["export_seconds"] + found["verify_seconds"]
    return {**found, "ratio": ours / found["bare_seconds"]}


RUN = {"start-up": start_up, "memory": memory, "update": update, "export": export}


def jobs(options):
    """Yields all jobs."""
    for part in options.parts:
        job = {"part": part}
        if part == "start-up":
            yield job | {"rounds": options.rounds}
        for size in options.sizes:
            sized = job | {"size": size}
            if part == "memory":
                rivals = RIVALS if find_spec("tensorflow_model_optimization") else ()
                yield from (sized | {"variant": one} for one in VARIANTS + rivals)
            elif part == "update":
                for scope in ("layer", "global"):
                    yield sized | {"scope": scope, "rounds": options.rounds}
            elif part == "export":
                yield sized | {"rounds": options.rounds}


def in_own_process(job):
    """Returns the figures of a job, measured in a new process."""
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def with_ratios(results):
    """Adds to every fit's memory its ratio to that of the plain fit of this size."""
    peaks = {
        (one["size"], one["variant"]): one["peak_mb"]
        for one in results
        if one["part"] == "memory"
    }

    def plain(one):
        side = TFMOT if one["variant"].startswith(TFMOT) else ""
        return peaks.get((one["size"], side + "plain"))

    return [
        {**one, "ratio": one["peak_mb"] / plain(one)}
        if one["part"] == "memory" and plain(one)
        else one
        for one in results
    ]


def table(results):
    made = Table(title="Overhead")
    names = ("part", "million weights", "of", "figures")
    for column in names:
        made.add_column(column)
    described = {"part", "size", "variant", "scope", "rounds"}
    for one in results:
        figures = ", ".join(
            f"{name} {value:.3g}"
            for name, value in one.items()
            if name not in described
        )
        of = one.get("variant") or one.get("scope", "")
        made.add_row(one["part"], str(one.get("size", "")), of, figures)
    return made


def regressions(results, before):
    """Returns what has become worse than in the results of an earlier run."""
    worse = []
    for one in results:
        same = {
            k: v for k, v in one.items() if k in ("part", "size", "variant", "scope")
        }
        old = next((b for b in before if same.items() <= b.items()), {})
        for name in ("ratio", "step_ratio"):
            if name in old and one[name] > TOLERANCE * old[name]:
                worse.append(f"{same}: {name} {old[name]:.2f} -> {one[name]:.2f}")
    return worse


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", nargs="+", type=float, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--against", type=Path, help="fail if ratios are larger here")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.job:
        print(json.dumps(RUN[options.job["part"]](options.job)))
        return None
    results = with_ratios(run_jobs(jobs(options), in_own_process, options.json))
    Console(width=140).print(table(results))
    if options.against:
        before = with_ratios(json.loads(options.against.read_text(encoding="utf-8")))
        worse = regressions(results, before)
        if worse:
            sys.exit("Larger than before:\n" + "\n".join(worse))
    return results


if __name__ == "__main__":
    main()
