"""Accuracy of a VGG-like net with half its MACs, by factorize, after fine-tuning.

    python benchmarks/factorize_accuracy.py --json factorize.json

The dense net is trained, then fine-tuned as long and at the same rates as the
factorized ones: that is the control. Ranks and factors are chosen on some training
images ("data"), or by the kernels alone. Fashion-MNIST; figures are means over the
seeds. A run that is killed goes on where it was if it is given the same --json.
"""

import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from _jobs import BATCH, images, mean, models_folder, options, run_jobs
from rich.console import Console
from rich.table import Table

import tfcompress


def vgg(shape, classes, width):
    """Three stages of two 3x3 convolutions with batch normalization, and a head."""
    layers = keras.layers
    image = x = keras.Input(shape, name="image")
    for stage in range(3):
        for _ in range(2):
            x = layers.Conv2D(width << stage, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(8 * width, activation="relu")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(classes)(x), name="vgg")


def fit(model, data, epochs, rate):
    steps = epochs * math.ceil(len(data.x_train) / BATCH)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(decay), loss)
    arguments = {"epochs": epochs, "batch_size": BATCH, "verbose": 0}
    model.fit(data.x_train, data.y_train, **arguments)


def accuracy(model, data):
    """Returns the share of test images that a model gets right."""
    found = model.predict(data.x_test, batch_size=500, verbose=0)
    return float(np.mean(np.argmax(found, axis=-1) == data.y_test))


RATE = 1e-3
IMAGES = 512
ROWS = ("control", "tucker", "spatial", "tucker data", "spatial data")


class Networks:
    """Trains and factorizes; the dense net of a seed is trained once.

    Args:
        data: the images.
        folder: where dense nets are kept.
    """

    def __init__(self, data, folder):
        self.data, self.folder = data, folder

    def run(self, job):
        """Returns what a method leaves of a net: its accuracy and what it costs."""
        model = self.trained(job)
        whole = tfcompress.macs(model)
        if job["row"] != "control":
            conv, *seen = job["row"].split()
            data = self.data.x_train[:IMAGES] if seen else None
            model = tfcompress.factorize(
                model, macs=job["target"], conv=conv, data=data
            )
        before = accuracy(model, self.data)
        keras.utils.set_random_seed(100 + job["seed"])
        fit(model, self.data, job["epochs"][1], RATE)
        figures = {"macs": tfcompress.macs(model) / whole, "size": model.count_params()}
        return {**figures, "before": before, "after": accuracy(model, self.data)}

    def trained(self, job):
        """Returns the dense net of a seed, before fine-tuning."""
        path = self.folder / f"vgg-{job['seed']}.keras"
        if not path.exists():
            keras.utils.set_random_seed(job["seed"])
            data = self.data
            model = vgg(data.image_shape, data.num_classes, job["width"])
            fit(model, data, job["epochs"][0], RATE)
            model.save(path)
        return keras.models.load_model(path, compile=False)


def table(results):
    made = Table("", "MACs", "weights", "before %", "after %", "to control")
    rows = {name: [r for r in results if r["row"] == name] for name in ROWS}
    control = mean(rows["control"], "after")
    for name, own in rows.items():
        if not own:
            continue
        after = mean(own, "after")
        made.add_row(
            f"{name} ({len(own)} seeds)",
            f"{mean(own, 'macs'):.2f}",
            f"{mean(own, 'size'):,.0f}",
            f"{100 * mean(own, 'before'):.2f}",
            f"{100 * after:.2f}",
            f"{100 * (after - control):+.2f}" if control else "-",
        )
    return made


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--epochs", nargs=2, type=int, default=[3, 3])
    arguments = parser.parse_args(argv)
    jobs = [
        {
            "seed": seed,
            "row": row,
            "target": arguments.macs,
            "width": arguments.width,
            "epochs": arguments.epochs,
            "limit": arguments.limit,
        }
        for seed in arguments.seeds
        for row in arguments.rows
    ]
    folder = models_folder(arguments.json)
    networks = Networks(images(arguments.limit), folder)
    results = run_jobs(jobs, networks.run, arguments.json)
    Console(width=100).print(table(results))
    return results


if __name__ == "__main__":
    main()
