"""compress against TFMOT's best recipes: size and accuracy on Fashion-MNIST.

    python benchmarks/front.py --directory front --json front.json
    python benchmarks/front.py --directory fast --latency 50% --trials 1 --tfmot 0

A float model is trained on all but the last 5 000 training images. `compress` gets a
budget of a thirtieth of its float .tflite, packed, and of one point of accuracy on
these 5 000, and so many minutes. TFMOT prunes, clusters and trains quantization-aware
from the same weights, for as many epochs as each of our candidates had, in a process of
its own. All files are packed by `tfcompress.pack` and judged on the 10 000 test images,
which nothing was chosen on. `--minutes` counts the whole call of `compress`.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from _jobs import BATCH, Child, images
from _models import MODELS
from rich.console import Console
from rich.table import Table

VALIDATION = 5000
RATE = 2e-3
TFMOT_RECIPES = (  # sparsity, clusters
    (0.5, 0),
    (0.9, 0),
    (0.75, 16),
    (0.9, 16),
    (0.0, 0),
    (0.75, 0),
    (0.5, 32),
)


def trained(name, data, epochs, path):
    """Returns the float model; its weights are kept in `path`."""
    import keras

    keras.utils.set_random_seed(0)
    model = MODELS[name](keras)
    steps = epochs * len(data.x_train) // BATCH
    if not path.exists():
        decay = keras.optimizers.schedules.CosineDecay(RATE, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(decay), loss)
        x, y = data.x_train[:-VALIDATION], data.y_train[:-VALIDATION]
        model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, *model.get_weights())
    with np.load(path) as stored:
        model.set_weights([stored[name] for name in stored.files])
    model.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def ours(model, data, arguments):
    """Returns the result of `compress` and the seconds that it took."""
    import tfcompress

    start = time.monotonic()
    result = tfcompress.compress(
        model,
        (data.x_train[:-VALIDATION], data.y_train[:-VALIDATION]),
        (data.x_train[-VALIDATION:], data.y_train[-VALIDATION:]),
        tfcompress.Budget(
            max_packed_bytes=None
            if arguments.latency
            else f"{100 / arguments.times:.6f}%",
            max_latency_ms=arguments.latency,
            max_metric_drop=0.01,
        ),
        search=tfcompress.Search(
            arguments.trials,
            arguments.trials * arguments.epochs,
            arguments.minutes,
            str(arguments.directory / "compress"),
        ),
    )
    return result, time.monotonic() - start


def theirs(data, arguments, weights):
    """Yields `(name, path)` of the files that TFMOT makes."""
    child = None
    for sparsity, clusters in TFMOT_RECIPES[: arguments.tfmot]:
        name = f"TFMOT {sparsity:.0%} zeros, {clusters or 'all'} values"
        path = arguments.directory / f"tfmot-{sparsity}-{clusters}.tflite"
        if not path.exists():
            child = child or Child(str(Path(__file__).with_name("_tfmot_front.py")))
            child.ask(
                {
                    "model": arguments.model,
                    "weights": str(weights.absolute()),
                    "path": str(path.absolute()),
                    "sparsity": sparsity,
                    "clusters": clusters,
                    "epochs": arguments.epochs,
                    "rate": RATE,
                    "seed": 0,
                    "limit": arguments.limit,
                    "validation": VALIDATION,
                }
            )
        yield name, path


def judged(name, path, data, **more):
    """Returns packed bytes and accuracy on the test images."""
    import tempfile

    import tfcompress

    runner = tfcompress.load(path)
    right = np.argmax(runner(data.x_test), -1) == data.y_test
    with tempfile.TemporaryDirectory() as folder:
        packed = tfcompress.pack(path, Path(folder) / "packed").size
    accuracy = 100 * float(np.mean(right))
    return {"name": name, "packed": packed, "accuracy": accuracy, **more}


def dominated(rows):
    """Returns the TFMOT rows that are better than each of ours in size or accuracy."""
    mine = [row for row in rows if row["ours"]]
    return [
        row["name"]
        for row in rows
        if not row["ours"]
        and not any(
            own["packed"] <= row["packed"] and own["accuracy"] >= row["accuracy"]
            for own in mine
        )
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=list(MODELS), default="small-resnet")
    parser.add_argument("--start", type=int, default=10, help="epochs of the float")
    parser.add_argument("--epochs", type=int, default=6, help="of each candidate")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--times", type=float, default=30, help="how much smaller")
    parser.add_argument("--latency", help="a budget of latency instead, such as 50%%")
    parser.add_argument("--minutes", type=float, help="for the call of compress")
    parser.add_argument("--tfmot", type=int, default=len(TFMOT_RECIPES))
    parser.add_argument("--limit", type=int, help="use so many images only")
    parser.add_argument("--directory", type=Path, default=Path("front"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    data = images(arguments.limit)
    weights = arguments.directory / "start.npz"
    model = trained(arguments.model, data, arguments.start, weights)
    result, seconds = ours(model, data, arguments)
    console = Console(width=110)
    console.print(str(result), markup=False)
    rows = [
        judged(
            one.name,
            one.path,
            data,
            ours=True,
            chosen=one is result.best,
            latency=one.measures.latency_ms,
        )
        for one in result.candidates
    ]
    rows += [
        judged(*found, data, ours=False) for found in theirs(data, arguments, weights)
    ]
    baseline = judged("float", result.baseline.path, data)
    heads = (
        "row",
        "packed",
        "times smaller",
        "ms",
        "test accuracy, %",
        "against float",
    )
    table = Table(*heads)
    original = result.baseline.measures.bytes
    for row in sorted(rows, key=lambda row: row["packed"]):
        row["times"] = original / row["packed"]
        table.add_row(
            row["name"] + (" (chosen)" if row.get("chosen") else ""),
            f"{row['packed']:,}",
            f"{row['times']:.1f}",
            f"{row['latency']:.4f}" if row["ours"] else "",
            f"{row['accuracy']:.2f}",
            f"{row['accuracy'] - baseline['accuracy']:+.2f}",
        )
    console.print(table)
    beaten = dominated(rows)
    console.print(f"float: {original:,} bytes, {baseline['accuracy']:.2f} %")
    console.print(f"float: {result.baseline.measures.latency_ms:.4f} ms a call")
    console.print(f"budget met: {result.met}; {seconds / 60:.1f} minutes")
    console.print(f"TFMOT rows that none of ours dominates: {beaten or 'none'}")
    if arguments.json:
        figures = {
            "rows": rows,
            "float": {**baseline, "bytes": original},
            "met": result.met,
            "minutes": seconds / 60,
            "not dominated": beaten,
        }
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
