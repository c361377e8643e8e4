"""Accuracy of a VGG-like net with half its MACs, by factorize, after fine-tuning.

    python benchmarks/factorize_accuracy.py --json factorize.json

The dense net is trained, then fine-tuned as long and at the same rates as the
factorized ones: that is the control. Fashion-MNIST; figures are means over the seeds.
"""

import math
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from _runs import Results, images, mean, options
from rich.console import Console
from rich.table import Table

import tfcompress

BATCH = 128


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


METHODS = {"control": None, "tucker": "tucker", "spatial": "spatial"}


def trained(seed, data, arguments, folder):
    """Returns the dense net of a seed, before fine-tuning."""
    path = folder / f"vgg-{seed}-{arguments.width}-{arguments.epochs[0]}.keras"
    if path.exists():
        return keras.models.load_model(path, compile=False)
    keras.utils.set_random_seed(seed)
    model = vgg(data.image_shape, data.num_classes, arguments.width)
    fit(model, data, arguments.epochs[0], 1e-3)
    model.save(path)
    return model


def figures(model, conv, data, arguments):
    """Returns what a method leaves of a net: its accuracy and what it costs."""
    whole, net = tfcompress.macs(model), model
    if conv:
        net = tfcompress.factorize(model, macs=arguments.macs, conv=conv)
    before = accuracy(net, data)
    fit(net, data, arguments.epochs[1], 5e-4)
    share = tfcompress.macs(net) / whole
    sizes = {"macs": share, "size": net.count_params()}
    return {**sizes, "before": before, "after": accuracy(net, data)}


def table(results):
    made = Table("", "MACs", "weights", "before %", "after %", "to control")
    rows = {name: [r for r in results if r["row"] == name] for name in METHODS}
    control = mean(rows["control"], "after")
    for name, own in rows.items():
        after = mean(own, "after")
        made.add_row(
            f"{name} ({len(own)} seeds)",
            f"{mean(own, 'macs'):.2f}",
            f"{mean(own, 'size'):,.0f}",
            f"{100 * mean(own, 'before'):.2f}",
            f"{100 * after:.2f}",
            f"{100 * (after - control):+.2f}",
        )
    return made


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--epochs", nargs=2, type=int, default=[4, 2])
    arguments = parser.parse_args(argv)
    data = images(arguments.data, arguments.limit)
    results, rows = Results(arguments.json), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for name, conv in METHODS.items():
                job = {"seed": seed, "row": name, "width": arguments.width}
                job |= {"target": arguments.macs, "epochs": arguments.epochs}
                job |= {"limit": arguments.limit, "data": arguments.data}

                def measure(seed=seed, conv=conv):
                    model = trained(seed, data, arguments, Path(folder))
                    keras.utils.set_random_seed(100 + seed)
                    return figures(model, conv, data, arguments)

                rows.append(results.run(job, measure))
    Console(width=100).print(table(rows))
    return rows


if __name__ == "__main__":
    main()
