"""Deep Compression end to end: how small LeNets become, and what it costs.

    python benchmarks/deep_compression.py --json deep.json
    python benchmarks/deep_compression.py --models lenet-300-100 --seeds 0
    python benchmarks/deep_compression.py --data /path/to/idx/files

Every network is trained by the recipe of examples/deep_compression.py. Its control is
the same network with the same epochs, learning rates and batch size, dense and in
float32; "no loss" is a mean within 0.2 points of the mean of the controls. TFMOT's row
is pruning, clustering and PCQAT with the same epochs and rates in a process of its own
(90 % sparse, 16 clusters). Ratios are to the float32 weights. A run that is killed goes
on where it was if it is given the same --json.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import deep_compression as example
import keras
from _models import MODELS
from rich.console import Console
from rich.table import Table

import tfcompress
from tfcompress.datasets import load_images, read_fashion_mnist

RECIPES = {
    "lenet-300-100": example.Recipe(),
    # Its epochs cost eight times as much.
    "lenet-5": example.Recipe(
        epochs=(8, 24, 10), rates=(1e-3, 3e-3, 1e-3), sparsity=0.97
    ),
}
MAKERS = {"lenet-300-100": example.lenet_300_100, "lenet-5": example.lenet_5}
TFMOT = {"sparsity": 0.9, "clusters": 16}
ROWS = ("teacher", "control", "tfcompress", "tfmot")


def run_ours(job, recipe, data, folder):
    """Returns the figures of one job; models that later jobs need stay in `folder`."""
    shape, classes = data.image_shape, data.num_classes
    key = f"{job['model']}-{job['seed']}"
    keras.utils.set_random_seed(job["seed"])
    if job["row"] == "teacher":
        model = example.teacher_network(shape, classes)
        example.train_dense(model, data, recipe, stages=(0,))
        model.save(folder / f"teacher-{job['seed']}.keras")
        return {"accuracy": example.accuracy(model, data)}
    if job["row"] == "control":
        model = MAKERS[job["model"]](shape, classes)
        example.train_dense(model, data, recipe, stages=(0,))
        model.save(folder / f"{key}.keras")
        example.train_dense(model, data, recipe, stages=(1, 2))
        return {"accuracy": example.accuracy(model, data)}
    model = keras.models.load_model(folder / f"{key}.keras", compile=False)
    name = f"teacher-{job['seed']}"
    teacher = keras.models.load_model(folder / f"{name}.keras", compile=False)
    final = example.compress_network(model, teacher, data, recipe, folder / name)
    artifact = tfcompress.export(final, folder / f"{key}.tflite", overwrite=True)
    agreement = tfcompress.verify(artifact, final, data.x_test[:1000])
    packed = tfcompress.pack(artifact, folder / f"{key}.tfc", overwrite=True)
    found = tfcompress.storage(artifact)
    return {
        "accuracy": example.accuracy(tfcompress.load(artifact), data),
        "gzip": artifact.gzip_size,
        "packed": packed.size,
        "entropy": found.entropy_size,
        "layers": [dataclasses.asdict(layer) for layer in found.layers],
        "max_abs_error": agreement.max_abs_error,
    }


class Child:
    """The TFMOT process."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("_tfmot_pcqat.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        )

    def ask(self, job):
        print(json.dumps(job), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"The TFMOT process died on {job}; run _tfmot_pcqat.py by hand."
            )
        return json.loads(answer)


def jobs(arguments):
    for seed in arguments.seeds:
        for model in arguments.models:
            for row in ROWS:
                if row == "teacher" and model != arguments.models[0]:
                    continue
                if row == "tfmot" and arguments.no_tfmot:
                    continue
                recipe = recipe_of(model, arguments)
                if row == "teacher" and not arguments.epochs:
                    recipe = example.TEACHING
                job = {"model": model, "seed": seed, "row": row}
                job |= {"limit": arguments.limit, "data": arguments.data}
                job |= json.loads(json.dumps(dataclasses.asdict(recipe)))
                if row in ("teacher", "control"):
                    # What only compression reads does not make another control.
                    job = {k: v for k, v in job.items() if k not in COMPRESSION}
                yield job | (TFMOT if row == "tfmot" else {}), recipe


COMPRESSION = ("sparsity", "clusters", "temperature", "student_loss_weight")


def recipe_of(model, arguments):
    changes = {
        name: getattr(arguments, name)
        for name in ("sparsity", "clusters")
        if getattr(arguments, name)
    }
    if arguments.epochs:
        changes["epochs"] = tuple(arguments.epochs)
    return dataclasses.replace(RECIPES[model], **changes)


def table(results):
    made = Table("model", "row", "accuracy %", "to control", title="Deep Compression")
    for heading in ("gzip", "packed", "packed / entropy"):
        made.add_column(heading, justify="right")
    for model in dict.fromkeys(r["model"] for r in results):
        own = [r for r in results if r["model"] == model]
        counts = MODELS[model](keras).count_params()
        control = mean(own, "control", "accuracy")
        for row in ROWS:
            accuracies = [100 * r["accuracy"] for r in own if r["row"] == row]
            if not accuracies:
                continue
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            average = statistics.mean(accuracies)
            gzip, packed = (mean(own, row, n) for n in ("gzip", "packed"))
            entropy = mean(own, row, "entropy")
            made.add_row(
                model,
                f"{row} ({len(accuracies)} seeds)",
                f"{average:.2f} ± {spread:.2f}",
                f"{average - 100 * control:+.2f}" if control else "-",
                f"{gzip:,.0f} ({4 * counts / gzip:.1f}x)" if gzip else "-",
                f"{packed:,.0f} ({4 * counts / packed:.1f}x)" if packed else "-",
                f"{packed / entropy:.2f}" if packed else "-",
            )
    return made


def mean(results, row, name):
    found = [r[name] for r in results if r["row"] == row and name in r]
    return statistics.mean(found) if found else None


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", help="folder with four IDX files")
    parser.add_argument("--limit", type=int, help="train on so many images only")
    parser.add_argument("--epochs", nargs=3, type=int, help="of the three stages")
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--clusters", type=int)
    parser.add_argument("--no-tfmot", action="store_true")
    parser.add_argument(
        "--json", type=Path, help="write every run here; those found are not repeated"
    )
    arguments = parser.parse_args(argv)
    data = read_fashion_mnist(arguments.data) if arguments.data else load_images()
    data = data.first(arguments.limit)
    results, console = [], Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="deep-compression-"))
    if arguments.json:
        folder = arguments.json.with_suffix(".models")
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.json.exists():
            results = json.loads(arguments.json.read_text(encoding="utf-8"))
    child = None
    for job, recipe in jobs(arguments):
        if any(job.items() <= result.items() for result in results):
            continue
        began = time.perf_counter()
        if job["row"] == "tfmot":
            child = child or Child()
            figures = child.ask(job)
        else:
            figures = run_ours(job, recipe, data, folder)
        results.append({**job, **figures})
        shown = {k: v for k, v in figures.items() if k != "layers"}
        seconds = time.perf_counter() - began
        console.print(
            f"{job['model']} {job['seed']} {job['row']}: {shown}, {seconds:.0f} s"
        )
        if arguments.json:
            text = json.dumps(results, indent=1)
            arguments.json.write_text(text, encoding="utf-8")
    Console(width=120).print(table(results))
    return results


if __name__ == "__main__":
    main()
