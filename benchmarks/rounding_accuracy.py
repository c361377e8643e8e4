"""What kernels of 4 and 2 bits lose without training, for each way of rounding them.

    python benchmarks/rounding_accuracy.py --limit 20000 --json roundings.json
    python benchmarks/rounding_accuracy.py --models resnet-8 --json roundings.json
        --colours cifar10_subset.npz

A float model is trained with a cosine rate as in quantize_accuracy.py, and stays beside
the JSON file. Each row calibrates it from 500 training images without labels. Figures
are the accuracy of the model with its quantizers, whose values the exported file has,
and the CPU seconds that `calibrate` took.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from _jobs import images, models_folder, options, run_jobs, spread
from _models import small_mobilenet, small_resnet
from quantize_accuracy import CALIBRATION_IMAGES, RATE, fit
from rich.console import Console
from rich.table import Table

import tfcompress

ROUNDINGS = ("nearest", "adaptive", "adaround", "brecq")
SCHEMES = ("w4a8", "w2a8")


def resnet_8(keras):
    """ResNet-8 of MLPerf Tiny, for images of 32 x 32 pixels."""
    return small_resnet(keras, (32, 32, 3), strides=1)


MODELS = {
    "small-mobilenet": small_mobilenet,
    "small-resnet": small_resnet,
    "resnet-8": resnet_8,
}


def colours(path):
    held = np.load(path)
    parts = (held["x_train"], held["y_train"]), (held["x_test"], held["y_test"])
    return tuple(((x / 255).astype("float32"), y.reshape(-1)) for x, y in parts)


def trained(job, train, folder):
    """Returns the float model of a job, trained once."""
    path = (
        folder / f"{job['model']}-{job['seed']}-{job['epochs']}-{len(train[0])}.keras"
    )
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(job["seed"])
    model = MODELS[job["model"]](keras)
    fit(keras, model, train, job["epochs"], RATE)
    fit(keras, model, train, max(job["epochs"] // 2, 1), RATE / 10)
    model.save(path)
    return model


def run(job, data, folder):
    train, (x, y) = data[job["model"]]
    model, seconds = trained(job, train, folder), 0.0
    if job["rounding"] != "float":
        began = time.process_time()
        samples, rounding = train[0][:CALIBRATION_IMAGES], job["rounding"]
        model = tfcompress.calibrate(model, samples, job["scheme"], rounding=rounding)
        seconds = time.process_time() - began
    right = model.predict(x, batch_size=500, verbose=0).argmax(axis=-1) == y
    return {"accuracy": 100 * float(np.mean(right)), "seconds": seconds}


def table(results):
    title = "Against float, points; CPU seconds of calibrate"
    found = Table("model", "scheme", "rounding", "accuracy", "loss", "s", title=title)
    floats = {
        (r["model"], r["seed"]): r["accuracy"]
        for r in results
        if r["rounding"] == "float"
    }
    rows = dict.fromkeys((r["model"], r["scheme"], r["rounding"]) for r in results)
    for row in rows:
        own = [r for r in results if (r["model"], r["scheme"], r["rounding"]) == row]
        gaps = [
            r["accuracy"] - floats[r["model"], r["seed"]]
            for r in own
            if (r["model"], r["seed"]) in floats
        ]
        seconds = np.mean([r["seconds"] for r in own])
        values = spread([r["accuracy"] for r in own]), spread(gaps, "+")
        found.add_row(*row, *values, f"{seconds:.0f}")
    return found


def main(argv=None):
    parser = options(__doc__)
    known = ["small-mobilenet", "small-resnet"]
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=known)
    parser.add_argument("--schemes", nargs="+", default=[*SCHEMES])
    parser.add_argument("--roundings", nargs="+", default=[*ROUNDINGS])
    parser.add_argument("--epochs", type=int, default=8, help="then half at RATE / 10")
    parser.add_argument("--colours", help="cifar10_subset.npz, for resnet-8")
    arguments = parser.parse_args(argv)
    data = {}
    if {"small-mobilenet", "small-resnet"} & set(arguments.models):
        held = images(arguments.limit)
        both = (held.x_train, held.y_train), (held.x_test, held.y_test)
        data |= {"small-mobilenet": both, "small-resnet": both}
    if "resnet-8" in arguments.models:
        if not arguments.colours:
            parser.error("resnet-8 needs --colours")
        data["resnet-8"] = colours(arguments.colours)
    ways = [("", "float")]
    ways += [(s, r) for s in arguments.schemes for r in arguments.roundings]
    jobs = [
        {
            "model": model,
            "seed": seed,
            "scheme": scheme,
            "rounding": rounding,
            "epochs": arguments.epochs,
            "limit": arguments.limit,
        }
        for model in arguments.models
        for seed in arguments.seeds
        for scheme, rounding in ways
    ]
    folder = models_folder(arguments.json)
    results = run_jobs(jobs, lambda job: run(job, data, folder), arguments.json)
    Console(width=110).print(table(results))
    return results


if __name__ == "__main__":
    main()
