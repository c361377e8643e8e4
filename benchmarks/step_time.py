"""What a training step costs: plain, pruned, quantized, distilled; ours and TFMOT's.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --models lenet-5 --variants taylor --no-tfmot

All variants of a model are open at once and train 10 steps each in turns, ten turns a
round (see _rounds.py). A figure is the median over the rounds of the variant's time
divided by that of the plain fit of the same framework in the same round; by default CPU
time of the process, which other programs on the machine disturb least. Traces are not
counted: the first round is thrown away. Mask updates are: with 100 steps a round and a
frequency of 100 there is one in each. Reading the data counts too: every fit reads
batches from a tf.data data set, that of "distil cached" attaches the teacher's outputs
to them. Teachers are as large as their students; "plain+teacher" runs the teacher's
forward pass in the plain step, which is the least that a live teacher can cost.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
from _jobs import Child
from _models import BATCHES, MODELS, SMALL, compiled
from _rounds import open_fit
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import tfcompress

WARM_UP = 1
TFMOT = ("plain", "prune", "qat", "cluster")


def temperature_loss():
    return keras.distillation.LogitsDistillation(temperature=3.0)


def distilled(make, student=None):
    """Returns a distiller of two plain models, or with this one as its student."""
    from tfcompress.distillation.distiller import Distiller

    return Distiller(make(), student or make(), temperature_loss())


class WithForward(keras.Model):
    """A model whose step also runs another one, to no purpose."""

    def __init__(self, model, other):
        super().__init__()
        self.model, self.other = model, other
        other.trainable = False

    def call(self, x, training=None):
        return self.model(x, training=training)

    def train_step(self, data):
        outputs = self.other(data[0], training=False)
        return {**super().train_step(data), "other": keras.ops.mean(outputs)}


FOLDERS = []  # of caches; they vanish with the process


def cached(make):
    """Returns a distiller, no callbacks, and what turns plain data into its data."""
    from tfcompress.distillation import Distiller, cache_teacher

    teacher, folder = make(), tempfile.TemporaryDirectory()
    FOLDERS.append(folder)

    def attach(data):
        batches = data.take(BATCHES)
        return cache_teacher(teacher, batches, folder.name).repeat()

    return Distiller(teacher, make(), temperature_loss()), [], attach


def quantized(make):
    return tfcompress.quantize_aware(make())


def prune(sparsity=0.8, **options):
    # To the very end, so that every round has its mask update.
    schedule = tfcompress.PolynomialSparsity(0.0, sparsity, end_step=1.0, frequency=100)
    return tfcompress.PruneWeights(schedule, **options)


def sparse(method):
    return tfcompress.SparseTraining(0.8, method, end_step=1.0)


# Each takes what makes the plain model and returns a model, its callbacks and perhaps
# what turns the plain data set into its own.
OURS = {
    "plain": lambda make: (make(), []),
    "prune": lambda make: (make(), [prune()]),
    "qat": lambda make: (quantized(make), []),
    "prune+qat": lambda make: (quantized(make), [prune()]),
    "distil": lambda make: (distilled(make), []),
    "keras distil": lambda make: (
        keras.distillation.Distiller(make(), make(), temperature_loss()),
        [],
    ),
    "distil cached": cached,
    "plain+teacher": lambda make: (WithForward(make(), make()), []),
    "prune global": lambda make: (make(), [prune(scope="global")]),
    "lamp global": lambda make: (make(), [prune(criterion="lamp", scope="global")]),
    "random": lambda make: (make(), [prune(criterion="random")]),
    "taylor": lambda make: (make(), [prune(criterion="taylor")]),
    "movement": lambda make: (make(), [prune(criterion="movement")]),
    "snip": lambda make: (make(), [prune(criterion="snip")]),
    "grasp": lambda make: (make(), [prune(criterion="grasp")]),
    "2:4": lambda make: (make(), [prune(0.5, pattern="n_of_m")]),
    "rigl": lambda make: (make(), [sparse("rigl")]),
    "set": lambda make: (make(), [sparse("set")]),
    "cluster": lambda make: (make(), [tfcompress.ClusterWeights(16)]),
    "prune+cluster": lambda make: (
        make(),
        [prune(), tfcompress.ClusterWeights(16, begin_step=1)],
    ),
    "all": lambda make: (
        distilled(make, student=quantized(make)),
        [prune(), tfcompress.ClusterWeights(16, begin_step=1)],
    ),
    "l1 penalty": lambda make: (make(), [tfcompress.PenalizeWeights(1e-4)]),
}


def measure(model, arguments, child, tick):
    """Returns `{(framework, variant): [(cpu, wall) of each round]}` of one model."""
    options = {
        "steps": arguments.steps,
        "chunk": arguments.chunk,
        "batch": arguments.batch,
        "rounds": arguments.rounds + WARM_UP,
    }
    turns = {}
    for name in OURS:
        if name in arguments.variants:
            made, callbacks, *attach = OURS[name](lambda: MODELS[model](keras))
            compiled(keras, made)
            fit = open_fit(made, callbacks, options, keras.callbacks.Callback, *attach)
            turns["Keras 3", name] = fit.advance
    if child is not None:
        wanted = [name for name in TFMOT if name in arguments.variants]
        child.ask({"open": model, "variants": wanted, **options})
        for name in wanted:
            turns["TFMOT", name] = lambda name=name: child.ask({"advance": name})
    times = {key: [] for key in turns}
    keys = list(turns)
    for _ in range(options["rounds"]):
        sums = {key: [0.0, 0.0] for key in keys}
        for _ in range(arguments.steps // arguments.chunk):
            for key in keys:
                for clock, seconds in enumerate(turns[key]()):
                    sums[key][clock] += seconds
            tick()
            # Begin with another one each time: whoever comes first may be slower.
            keys = [*keys[1:], keys[0]]
        for key, pair in sums.items():
            times[key].append(tuple(pair))
    return {key: rounds[WARM_UP:] for key, rounds in times.items()}


def summary(times, steps):
    """Returns a row per variant: ratio to plain, its spread, milliseconds a step."""
    rows = []
    for (framework, name), rounds in times.items():
        row = {"framework": framework, "variant": name}
        for clock, label in enumerate(("cpu", "wall")):
            own = [r[clock] for r in rounds]
            plain = [r[clock] for r in times[framework, "plain"]]
            ratios = sorted(a / b for a, b in zip(own, plain))
            row[f"{label}_ratio"] = statistics.median(ratios)
            row[f"{label}_ratio_range"] = (ratios[0], ratios[-1])
            row[f"{label}_ms"] = 1000 * statistics.median(own) / steps
        rows.append(row)
    return rows


def table(results, clock):
    made = Table(
        title=f"Step time against the plain step of the same framework ({clock} time, "
        "median and range over rounds)"
    )
    for column in ("model", "framework", "variant"):
        made.add_column(column)
    for column in ("ratio", "range", "ms a step"):
        made.add_column(column, justify="right")
    for model, rows in results.items():
        for row in rows:
            low, high = row[f"{clock}_ratio_range"]
            made.add_row(
                model,
                row["framework"],
                row["variant"],
                f"{row[f'{clock}_ratio']:.2f}x",
                f"{low:.2f}-{high:.2f}",
                f"{row[f'{clock}_ms']:.2f}",
            )
        made.add_section()
    return made


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=SMALL)
    parser.add_argument("--variants", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    parser.add_argument("--chunk", type=int, default=10, help="steps a turn")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--no-tfmot", action="store_true", help="leave TFMOT out")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args(argv)
    if arguments.steps % arguments.chunk:
        parser.error("--steps must be a multiple of --chunk")
    arguments.variants = list(dict.fromkeys(["plain", *arguments.variants]))
    results = {}
    child = (
        None
        if arguments.no_tfmot
        else Child(Path(__file__).with_name("_tfmot_steps.py"))
    )
    turns = (arguments.rounds + WARM_UP) * (arguments.steps // arguments.chunk)
    total = len(arguments.models) * turns
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("timing", total=total)
        for model in arguments.models:
            progress.update(task, description=model)
            times = measure(model, arguments, child, lambda: progress.advance(task))
            results[model] = summary(times, arguments.steps)
    if child is not None:
        child.close()
    Console().print(table(results, arguments.clock))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
