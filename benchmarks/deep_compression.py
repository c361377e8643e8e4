"""Deep Compression end to end: how small LeNets become, and what it costs.

    python benchmarks/deep_compression.py --json deep.json
    python benchmarks/deep_compression.py --models lenet-300-100 --seeds 0
    python benchmarks/deep_compression.py --data /path/to/idx/files

Every network is trained by the recipe of examples/deep_compression.py, with one teacher
for all. Its control is the same network with the same epochs, learning rates and batch
size, dense and in float32; "no loss" is a mean within 0.2 points of the mean of the
controls. "gentle" is one more control, of the first seed alone: as many epochs at 1e-3,
which suits a dense network better. "distilled" is the control with the recipe's teacher
and losses, in its last two stages as in the recipe. TFMOT's row is pruning, clustering
and PCQAT with the same epochs and rates in a process of its own (90 % sparse, 16
clusters). Ratios are to the float32 weights. A run that is killed goes on where it was
if it is given the same --json.
"""

import dataclasses
import functools
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import deep_compression as example
import keras
from _jobs import Child, images, mean, models_folder, options, run_jobs
from _models import MODELS
from rich.console import Console
from rich.table import Table

import tfcompress

MAKERS = {"lenet-300-100": example.lenet_300_100, "lenet-5": example.lenet_5}
GENTLE = 1e-3
TFMOT = {"sparsity": 0.9, "clusters": 16}
ROWS = ("control", "gentle", "distilled", "tfcompress", "tfmot")
TAUGHT = ("distilled", "tfcompress")


class Networks:
    """Trains, compresses and measures; what is trained once is kept in a folder.

    Args:
        data: the images.
        folder: where models and files are.
    """

    def __init__(self, data, folder):
        self.data, self.folder = data, folder

    def run(self, job):
        """Returns the figures of a job."""
        if job["row"] == "tfmot":
            return self.tfmot.ask(job)
        names = [field.name for field in dataclasses.fields(example.Recipe)]
        recipe = example.Recipe(**{k: v for k, v in job.items() if k in names})
        model = self.trained(job["model"], MAKERS[job["model"]], recipe, job["seed"])
        if job["row"] == "tfcompress":
            return self.compressed(model, recipe, job)
        if job["row"] == "distilled":
            lessons = self.lessons(recipe, job)
            for stage in (1, 2):
                lessons.fit(model, stage)
        else:
            keras.utils.set_random_seed(job["seed"])
            example.train_dense(model, self.data, recipe, stages=(1, 2))
        return {"accuracy": example.accuracy(model, self.data)}

    @functools.cached_property
    def tfmot(self):
        return Child(Path(__file__).with_name("_tfmot_pcqat.py"))

    def trained(self, name, make, recipe, seed):
        """Returns a network after the first stage of a recipe."""
        stage = f"{recipe.epochs[0]}-{recipe.rates[0]}"
        path = self.folder / f"{name}-{seed}-{stage}.keras"
        if path.exists():
            return keras.models.load_model(path, compile=False)
        keras.utils.set_random_seed(seed)
        model = make(self.data.image_shape, self.data.num_classes)
        example.train_dense(model, self.data, recipe, stages=(0,))
        model.save(path)
        return model

    def lessons(self, recipe, job):
        """Returns what fits students to the one teacher of all networks."""
        taught = teaching(job["teacher_epochs"])
        teacher = self.trained("teacher", example.teacher_network, taught, seed=1)
        teacher = example.with_mirror_images(teacher)
        cache = self.folder / f"outputs-{job['teacher_epochs']}"
        keras.utils.set_random_seed(job["seed"])
        return example.Lessons(teacher, self.data, recipe, cache)

    def compressed(self, model, recipe, job):
        """Returns the figures of a network after compression, and its teacher's."""
        lessons = self.lessons(recipe, job)
        final = example.compress_network(model, lessons)
        path = self.folder / f"{job['model']}-{job['seed']}.tflite"
        artifact = tfcompress.export(final, path, overwrite=True)
        agreement = tfcompress.verify(artifact, final, self.data.x_test[:1000])
        packed = tfcompress.pack(artifact, path.with_suffix(".tfc"), overwrite=True)
        found = tfcompress.storage(artifact)
        return {
            "accuracy": example.accuracy(tfcompress.load(artifact), self.data),
            "teacher": example.accuracy(lessons.teacher, self.data),
            "gzip": artifact.gzip_size,
            "packed": packed.size,
            "entropy": found.entropy_size,
            "layers": [dataclasses.asdict(layer) for layer in found.layers],
            "max_abs_error": agreement.max_abs_error,
        }


def teaching(epochs=None):
    """Returns the recipe of the teacher."""
    recipe = example.RECIPES[example.teacher_network]
    return dataclasses.replace(recipe, epochs=(epochs, 0, 0)) if epochs else recipe


def jobs(arguments):
    """Yields all jobs; a job is what its figures depend on.

    TFMOT takes longest: all its seeds but the first come when the rest is there.
    """
    first = arguments.seeds[0]
    order = [
        (seed, model, row)
        for seed in arguments.seeds
        for model in arguments.models
        for row in ROWS
        if row != "gentle" or seed == first
    ]
    order.sort(key=lambda job: job[2] == "tfmot" and job[0] != first)
    for seed, model, row in order:
        recipe = recipe_of(model, arguments)
        rates = recipe.rates if row != "gentle" else (GENTLE,) * 3
        job = {"model": model, "seed": seed, "row": row}
        job |= {"limit": arguments.limit, "data": arguments.data}
        job |= {"epochs": recipe.epochs, "rates": rates}
        if row in TAUGHT:
            taught = teaching(arguments.teacher_epochs)
            job |= dataclasses.asdict(recipe) | {"teacher_epochs": taught.epochs[0]}
        if row == "tfmot":
            job |= TFMOT
        if row in arguments.rows:
            yield job


def recipe_of(model, arguments):
    """Returns the recipe of a network, as the options change it."""
    names = ("epochs", "rates", "sparsity", "clusters")
    given = {name: getattr(arguments, name) for name in names}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(example.RECIPES[MAKERS[model]], **changes)


def table(results):
    """Returns the table of Deep Compression's figures: means over the seeds."""
    made = Table("model", "row", "accuracy %", "to control", title="Deep Compression")
    for heading in ("gzip", "packed", "packed / entropy"):
        made.add_column(heading, justify="right")
    for model in dict.fromkeys(r["model"] for r in results):
        counts = MODELS[model](keras).count_params()
        own = {
            row: [r for r in results if (r["model"], r["row"]) == (model, row)]
            for row in ROWS
        }
        control = mean(own["control"], "accuracy")
        for row, found in own.items():
            if not found:
                continue
            accuracies = [100 * r["accuracy"] for r in found]
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            average = statistics.mean(accuracies)
            gzip, packed, entropy = (
                mean(found, name) for name in ("gzip", "packed", "entropy")
            )
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


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--data", help="folder with four IDX files")
    parser.add_argument("--models", nargs="+", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--epochs", nargs=3, type=int, help="of the three stages")
    parser.add_argument("--rates", nargs=3, type=float, help="of the three stages")
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--clusters", type=int)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    arguments = parser.parse_args(argv)
    folder = models_folder(arguments.json)
    networks = Networks(images(arguments.limit, arguments.data), folder)
    results = run_jobs(jobs(arguments), networks.run, arguments.json)
    Console(width=120).print(table(results))
    return results


if __name__ == "__main__":
    main()
