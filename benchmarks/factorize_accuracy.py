"""Accuracy of a VGG-like net with half its MACs, by factorize, after fine-tuning.

    python benchmarks/factorize_accuracy.py --json factorize.json

The dense net is trained, then fine-tuned as long and at the same rates as the
factorized ones: that is the control. Fashion-MNIST; figures are means over the seeds.
"""

import argparse
import json
import math
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
from rich.console import Console
from rich.table import Table

import tfcompress
from tfcompress.datasets import load_images

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
    model.compile(keras.optimizers.Adam(decay), loss, metrics=["accuracy"])
    arguments = {"epochs": epochs, "batch_size": BATCH, "verbose": 0}
    model.fit(data.x_train, data.y_train, **arguments)
    return model.evaluate(data.x_test, data.y_test, batch_size=500, verbose=0)[1]


def run(seed, data, arguments):
    """Yields a row per method: its accuracy before and after, and what it costs."""
    keras.utils.set_random_seed(seed)
    model = vgg(data.image_shape, data.num_classes, arguments.width)
    trained = fit(model, data, arguments.epochs[0], 1e-3)
    whole = tfcompress.macs(model)
    made = {
        conv: tfcompress.factorize(model, macs=arguments.macs, conv=conv)
        for conv in ("tucker", "spatial")
    }
    rows = {"control": (model, trained)}
    for name, small in made.items():
        small.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        before = small.evaluate(data.x_test, data.y_test, batch_size=500, verbose=0)[1]
        rows[name] = (small, before)
    for name, (net, before) in rows.items():
        keras.utils.set_random_seed(100 + seed)
        after = fit(net, data, arguments.epochs[1], 5e-4)
        share = tfcompress.macs(net) / whole
        figures = {"macs": share, "size": net.count_params()}
        figures |= {"before": before, "after": after}
        yield {"seed": seed, "row": name, **figures}


def table(results):
    made = Table("", "MACs", "weights", "before %", "after %", "to control")
    control = statistics.mean(r["after"] for r in results if r["row"] == "control")
    for row in dict.fromkeys(r["row"] for r in results):
        own = [r for r in results if r["row"] == row]
        mean = {k: statistics.mean(r[k] for r in own) for k in own[0] if k != "row"}
        made.add_row(
            f"{row} ({len(own)} seeds)",
            f"{mean['macs']:.2f}",
            f"{mean['size']:,.0f}",
            f"{100 * mean['before']:.2f}",
            f"{100 * mean['after']:.2f}",
            f"{100 * (mean['after'] - control):+.2f}",
        )
    return made


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", nargs=2, type=int, default=[8, 4])
    parser.add_argument("--limit", type=int, help="train on so many images only")
    parser.add_argument("--json", type=Path, help="seeds found here are not repeated")
    arguments = parser.parse_args(argv)
    data, results = load_images(arguments.limit), []
    if arguments.json and arguments.json.exists():
        results = json.loads(arguments.json.read_text(encoding="utf-8"))
    for seed in arguments.seeds:
        if any(r["seed"] == seed for r in results):
            continue
        results += run(seed, data, arguments)
        if arguments.json:
            text = json.dumps(results, indent=1)
            arguments.json.write_text(text, encoding="utf-8")
    Console(width=100).print(table(results))
    return results


if __name__ == "__main__":
    main()
