"""What accuracy alone does not show: `trust` on models of the same recipe, compressed.

    python benchmarks/trust.py --limit 20000 --json figures.json

A float model is trained with a cosine rate; then every row trains its copy for the same
further epochs, from a tenth of that rate. `float` is the original that all others are
compared with. Two rows are no compression at all, but the yardsticks: `other order` is
the original's start with its images in another order, `other seed` begins from other
weights. `w8a8` and `w4a8` are quantization-aware, `80 %` to `97 %` are pruned by global
magnitude, `90 % w8a8` both at once, distilled from the original. All are measured as
.tflite files, on all 10 000 test images; corruptions and the attack on 1000 of them.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from _jobs import images, options, run_jobs, spread
from _models import MODELS
from quantize_accuracy import RATE, Starts, fit
from rich.console import Console
from rich.table import Table

YARDSTICKS = ("other order", "other seed")
ROWS = (*YARDSTICKS, "w8a8", "w4a8", "80 %", "90 %", "95 %", "97 %", "90 % w8a8")
COLUMNS = {
    "accuracy": "accuracy",
    "agreement": "same answer",
    "broken": "broken",
    "worst_class": "worst class",
    "calibration": "ECE",
    "corruption": "worst corruption",
    "attack": "FGSM",
    "own_attack": "own FGSM",
    "saliency": "saliency",
}


def trained(row, job, starts):
    """Returns the model of a row, ready to export, and the form that has gradients."""
    import keras

    import tfcompress

    if row == "other seed":
        model = starts.model({**job, "seed": job["seed"] + 1000}, 2)
        return model, model
    sparsity, scheme = _parts(row)
    model = starts.model(job, 1)
    keras.utils.set_random_seed(job["seed"] + 1)  # another order of the images
    callbacks = []
    if scheme:
        model = tfcompress.quantize_aware(model, scheme)
        last = max(job["more"] - 1, 1)
        callbacks.append(tfcompress.FreezeQuantization(last, last))
    if sparsity:
        schedule = tfcompress.PolynomialSparsity(0.0, sparsity, frequency=20)
        callbacks.append(tfcompress.PruneWeights(schedule, scope="global"))
    if sparsity and scheme:
        loss = keras.distillation.LogitsDistillation(temperature=3.0)
        distiller = tfcompress.Distiller(starts.model(job, 2), model, loss)
        fit(keras, distiller, starts.train, job["more"], RATE / 10, callbacks)
    else:
        fit(keras, model, starts.train, job["more"], RATE / 10, callbacks)
    return tfcompress.finalize(model), model


def _parts(row):
    """Returns the sparsity and the scheme that the name of a row asks for."""
    sparsity = float(row.split(" %")[0]) / 100 if "%" in row else None
    scheme = row.split()[-1] if row.endswith("a8") else None
    return sparsity, scheme


def measured(job, starts, test):
    """Returns the figures of one row, in per cent and points."""
    import tfcompress

    original = starts.model(job, 2)
    compressed, form = trained(job["row"], job, starts)
    with tempfile.TemporaryDirectory() as folder:
        artifact = tfcompress.export(compressed, Path(folder) / "model.tflite")
        found = tfcompress.trust(
            original, artifact, *test, compressed_model=form, seed=job["seed"]
        )
        size = tfcompress.pack(artifact, Path(folder) / "model.packed").size
    worst = min(found.corruption_means.values(), key=lambda one: one.change)
    return {
        "bytes": size,
        "original": 100 * found.accuracy.original,
        "accuracy": 100 * found.accuracy.change,
        "agreement": 100 * found.agreement,
        "broken": 100 * sum(a.kind == "broken" for a in found.changed) / found.samples,
        "worst_class": 100 * found.worst_class.recall.change,
        "calibration": 100 * found.calibration_error.change,
        "corruption": 100 * worst.change,
        "attack": 100 * found.attack.accuracy.change,
        "own_attack": 100 * (found.attack.own - found.attack.accuracy.original),
        "saliency": found.saliency.correlation,
    }


def table(results):
    """Returns the rows as means over seeds: changes in points, shares in per cent."""
    original = spread([r["original"] for r in results])
    shown = Table("row", "packed", *COLUMNS.values(), title=f"original: {original} %")
    for row in dict.fromkeys(r["row"] for r in results):
        own = [r for r in results if r["row"] == row]
        size = sum(r["bytes"] for r in own) // len(own)
        cells = [spread([r[name] for r in own]) for name in COLUMNS]
        shown.add_row(row, f"{size:,}", *cells)
    return shown


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--model", choices=list(MODELS), default="small-resnet")
    parser.add_argument("--epochs", type=int, default=8, help="of the float start")
    parser.add_argument("--more", type=int, default=4, help="epochs of every row")
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=ROWS)
    arguments = parser.parse_args(argv)
    import keras

    data = images(arguments.limit)
    starts = Starts(keras, (data.x_train, data.y_train))
    recipe = {name: getattr(arguments, name) for name in ("model", "epochs", "more")}
    jobs = [
        {**recipe, "limit": arguments.limit, "seed": seed, "row": row}
        for seed in arguments.seeds
        for row in arguments.rows
    ]
    test = data.x_test, data.y_test
    results = run_jobs(jobs, lambda job: measured(job, starts, test), arguments.json)
    Console(width=160).print(table(results))
    return results


if __name__ == "__main__":
    main()
