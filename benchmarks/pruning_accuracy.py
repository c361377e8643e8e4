"""Accuracy of pruned models on Fashion-MNIST: criterion x sparsity, and TFMOT's.

    python benchmarks/pruning_accuracy.py
    python benchmarks/pruning_accuracy.py --models lenet-300-100 --seeds 0 --epochs 5

Every run has the same epochs and the same cosine learning rate, the dense one too, and
every schedule reaches its sparsity at three quarters of the fit. A row names a
criterion and a scope (`magnitude@global`), a method of SparseTraining (`rigl`, `set`),
or `tfmot`, which runs in a process of its own on tf_keras with the same data, epochs,
rate and schedule. Figures are means over the seeds, in per cent of the test images.
"""

import math
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from _jobs import (
    BATCH,
    add_tfmot_options,
    answer_jobs,
    images,
    options,
    run_jobs,
    spread,
    tfmot_child,
)
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
RATE, FREQUENCY = 1e-3, 100


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
                cells.append(spread(found))
            table.add_row(row, *cells)
        yield table


def main(argv=None):
    parser = options(__doc__)
    known = ["lenet-300-100", "small-resnet"]
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=known)
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA))
    parser.add_argument(
        "--sparsities", nargs="+", type=float, default=[0.8, 0.9, 0.95, 0.98]
    )
    parser.add_argument("--epochs", type=int, default=10)
    add_tfmot_options(parser)
    arguments = parser.parse_args(argv)
    data = images(arguments.limit)
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    if arguments.tfmot_child:
        answer_jobs(lambda job: {"accuracy": run_tfmot(job, train, test)})
        return None
    ask = tfmot_child(__file__, arguments)

    def run(job):
        if job["row"] == "tfmot":
            return ask(job)
        return {"accuracy": run_ours(job, train, test)}

    results = run_jobs(jobs(arguments), run, arguments.json)
    for table in tables(results):
        Console(width=100).print(table)
    return results


if __name__ == "__main__":
    main()
