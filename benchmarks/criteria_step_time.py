"""What a training step costs with each pruning criterion, pattern and method.

    python benchmarks/criteria_step_time.py
    python benchmarks/criteria_step_time.py --models lenet-5 --variants taylor movement

All variants of a model are open at once and train in turns (see _rounds.py). A figure
is the median over the rounds of a variant's CPU time by that of the plain fit in
the same round. The default is what the docs advise: an update each 100 steps.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
from _models import MODELS, compiled
from _rounds import open_fit
from rich.console import Console
from rich.table import Table

import tfcompress
from tfcompress.pruning.penalty import PenalizeWeights
from tfcompress.pruning.sparse_training import SparseTraining

WARM_UP = 1


def prune(criterion="magnitude", pattern="unstructured", scope="layer"):
    # To the very end, so that every round has its mask update.
    schedule = tfcompress.PolynomialSparsity(0.0, 0.8, end_step=1.0, frequency=100)
    return [tfcompress.PruneWeights(schedule, criterion, pattern, scope)]


def half(pattern):
    schedule = tfcompress.PolynomialSparsity(0.0, 0.5, end_step=1.0, frequency=100)
    return [tfcompress.PruneWeights(schedule, pattern=pattern)]


VARIANTS = {
    "plain": lambda: [],
    "magnitude": prune,
    "magnitude global": lambda: prune(scope="global"),
    "random": lambda: prune("random"),
    "lamp global": lambda: prune("lamp", scope="global"),
    "taylor": lambda: prune("taylor"),
    "movement": lambda: prune("movement"),
    "snip": lambda: prune("snip"),
    "rigl": lambda: [SparseTraining(0.8, "rigl", end_step=1.0)],
    "set": lambda: [SparseTraining(0.8, "set", end_step=1.0)],
    "2:4": lambda: half("n_of_m"),
    "l1 penalty": lambda: [PenalizeWeights(1e-4)],
}


def measure(name, arguments):
    """Returns `{variant: [CPU seconds of each round]}` of one model."""
    options = {
        "steps": arguments.steps,
        "chunk": arguments.chunk,
        "batch": arguments.batch,
        "rounds": arguments.rounds + WARM_UP,
    }
    fits = {}
    for variant in dict.fromkeys(["plain", *arguments.variants]):
        model = compiled(keras, MODELS[name](keras))
        callbacks = VARIANTS[variant]()
        fits[variant] = open_fit(model, callbacks, options, keras.callbacks.Callback)
    times = {variant: [] for variant in fits}
    order = list(fits)
    for _ in range(options["rounds"]):
        sums = dict.fromkeys(order, 0.0)
        for _ in range(arguments.steps // arguments.chunk):
            for variant in order:
                sums[variant] += fits[variant].advance()[0]
            # Begin with another one each time: whoever comes first may be slower.
            order = [*order[1:], order[0]]
        for variant, seconds in sums.items():
            times[variant].append(seconds)
    return {variant: rounds[WARM_UP:] for variant, rounds in times.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["lenet-300-100", "lenet-5"]
    )
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    parser.add_argument("--chunk", type=int, default=10, help="steps a turn")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args(argv)
    if arguments.steps % arguments.chunk:
        parser.error("--steps must be a multiple of --chunk")
    table = Table("model", "variant", "ratio", "range", "ms a step")
    results = {}
    for model in arguments.models:
        times = measure(model, arguments)
        for variant, rounds in times.items():
            ratios = sorted(a / b for a, b in zip(rounds, times["plain"]))
            ratio = statistics.median(ratios)
            milliseconds = 1000 * statistics.median(rounds) / arguments.steps
            results[f"{model} {variant}"] = [ratio, ratios[0], ratios[-1], milliseconds]
            low_high = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
            table.add_row(
                model, variant, f"{ratio:.2f}x", low_high, f"{milliseconds:.2f}"
            )
        table.add_section()
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
