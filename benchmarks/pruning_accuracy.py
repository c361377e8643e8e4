"""Accuracy of pruned models on Fashion-MNIST: criterion x sparsity, and TFMOT's.

    python benchmarks/pruning_accuracy.py
    python benchmarks/pruning_accuracy.py --models lenet-300-100 --seeds 0 --epochs 5

Every run has the same epochs and the same cosine learning rate, the dense one too, and
every schedule reaches its sparsity at three quarters of the fit. A row names a
criterion and a scope (`magnitude@global`), a method of SparseTraining (`rigl`, `set`),
or `tfmot`, which runs in a process of its own on tf_keras with the same data, epochs,
rate and schedule. Figures are means over the seeds, in per cent of the test images.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from _models import MODELS
from rich.console import Console
from rich.table import Table

CRITERIA = (
    "random@layer",
    "magnitude@layer",
    "magnitude@global",
    "lamp@global",
    "taylor@global",
    "movement@global",
    "snip@global",
    "grasp@global",
    "set",
    "rigl",
)
BATCH, RATE, FREQUENCY = 128, 1e-3, 100


def data(limit):
    from tfcompress.datasets import load_images

    images = load_images(limit)
    return (images.x_train, images.y_train), (images.x_test, images.y_test)


def compiled(keras, model, steps):
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def callbacks(row, sparsity, steps):
    """Returns the callbacks of a row; none for the dense control."""
    import tfcompress
    from tfcompress.pruning.criteria import Grasp, Snip, Taylor
    from tfcompress.pruning.sparse_training import SparseTraining

    if row == "dense":
        return []
    if row in ("rigl", "set"):
        return [SparseTraining(sparsity, row, frequency=FREQUENCY)]
    name, scope = row.split("@")
    slow = {"taylor": Taylor(0.99), "snip": Snip(10), "grasp": Grasp(10)}
    schedule = tfcompress.PolynomialSparsity(0.0, sparsity, frequency=FREQUENCY)
    if name in ("snip", "grasp"):
        schedule = tfcompress.ConstantSparsity(sparsity, 9, frequency=FREQUENCY)
    return [tfcompress.PruneWeights(schedule, slow.get(name, name), scope=scope)]


def run_ours(job, train, test):
    import keras

    keras.utils.set_random_seed(job["seed"])
    steps = job["epochs"] * math.ceil(len(train[0]) / BATCH)
    model = compiled(keras, MODELS[job["model"]](keras), steps)
    fit = {"batch_size": BATCH, "epochs": job["epochs"], "verbose": 0}
    model.fit(*train, callbacks=callbacks(job["row"], job["sparsity"], steps), **fit)
    return model.evaluate(*test, batch_size=1000, verbose=0)[1]


def run_tfmot(job, train, test):
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    keras.utils.set_random_seed(job["seed"])
    steps = job["epochs"] * math.ceil(len(train[0]) / BATCH)
    pruning = tfmot.sparsity.keras
    schedule = pruning.PolynomialDecay(
        0.0, job["sparsity"], 0, round(0.75 * (steps - 1)), frequency=FREQUENCY
    )
    model = MODELS[job["model"]](keras)
    model = compiled(keras, pruning.prune_low_magnitude(model, schedule), steps)
    model.fit(
        *train,
        batch_size=BATCH,
        epochs=job["epochs"],
        verbose=0,
        callbacks=[pruning.UpdatePruningStep()],
    )
    return model.evaluate(*test, batch_size=1000, verbose=0)[1]


def tfmot_child(limit):
    """Answers one job a line with its accuracy."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    train, test = data(limit)
    for line in sys.stdin:
        print(json.dumps(run_tfmot(json.loads(line), train, test)), flush=True)


def open_tfmot(limit):
    command = [sys.executable, __file__, "--tfmot-child"]
    command += ["--limit", str(limit)] if limit else []
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )

    def ask(job):
        print(json.dumps(job), file=child.stdin, flush=True)
        answer = child.stdout.readline()
        if not answer:
            raise RuntimeError("The TFMOT process died; run it with --tfmot-child.")
        return json.loads(answer)

    return ask


def jobs(arguments):
    rows = [*arguments.criteria, *([] if arguments.no_tfmot else ["tfmot"])]
    for model in arguments.models:
        for seed in arguments.seeds:
            for sparsity, row in [(0.0, "dense")] + [
                (s, r) for s in arguments.sparsities for r in rows
            ]:
                yield {
                    "model": model,
                    "seed": seed,
                    "row": row,
                    "sparsity": sparsity,
                    "epochs": arguments.epochs,
                    "limit": arguments.limit,
                }


def tables(results):
    """Yields a table per model: rows against sparsities, mean over the seeds."""
    for model in dict.fromkeys(r["model"] for r in results):
        own = [r for r in results if r["model"] == model]
        sparsities = sorted({r["sparsity"] for r in own} - {0.0})
        dense = statistics.mean(r["accuracy"] for r in own if r["row"] == "dense")
        seeds = len({r["seed"] for r in own})
        title = f"{model}, {own[0]['epochs']} epochs, {seeds} seeds: dense {dense:.2%}"
        table = Table("criterion", *(f"{s:.0%}" for s in sparsities), title=title)
        for row in dict.fromkeys(r["row"] for r in own if r["row"] != "dense"):
            cells = []
            for sparsity in sparsities:
                found = [
                    100 * r["accuracy"]
                    for r in own
                    if (r["row"], r["sparsity"]) == (row, sparsity)
                ]
                spread = statistics.stdev(found) if len(found) > 1 else 0.0
                cells.append(f"{statistics.mean(found):.2f} ± {spread:.2f}")
            table.add_row(row, *cells)
        yield table


def read_results(path):
    """Returns the runs that an earlier, perhaps broken, call wrote to `--json`."""
    if path is None or not path.exists():
        return []
    return json.loads(path.read_text(encoding="utf-8"))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = ["lenet-300-100", "small-resnet"]
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=known)
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA))
    parser.add_argument(
        "--sparsities", nargs="+", type=float, default=[0.8, 0.9, 0.95, 0.98]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="train on so many images only")
    parser.add_argument("--no-tfmot", action="store_true")
    parser.add_argument(
        "--json", type=Path, help="write every run here; those found are not repeated"
    )
    parser.add_argument("--tfmot-child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.tfmot_child:
        tfmot_child(arguments.limit)
        return None
    train, test = data(arguments.limit)
    ask = None if arguments.no_tfmot else open_tfmot(arguments.limit)
    results, console = read_results(arguments.json), Console(stderr=True)
    done = [{k: v for k, v in r.items() if k != "accuracy"} for r in results]
    for job in jobs(arguments):
        if job in done:
            continue
        began = time.process_time()
        accuracy = ask(job) if job["row"] == "tfmot" else run_ours(job, train, test)
        results.append({**job, "accuracy": accuracy})
        seconds = time.process_time() - began
        console.print(f"{job} -> {accuracy:.4f} ({seconds:.0f} s of CPU)")
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    for table in tables(results):
        Console(width=100).print(table)
    return results


if __name__ == "__main__":
    main()
