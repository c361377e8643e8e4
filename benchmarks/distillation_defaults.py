"""Which temperature, and how much of the labels, suits a student on small data?

    python benchmarks/distillation_defaults.py --spoken spoken_digits.npz

A CNN teaches one of a quarter of its channels with soft labels, at several temperatures
and weights of the student's own loss. "alone" is the student without a teacher, for as
many epochs. Figures are means over the seeds, in per cent of the test data. Data:
handwritten digits of scikit-learn, of which the student sees 300, 2,000 pictures of
Fashion-MNIST, and spectrograms of spoken digits, if a file of them is given.
"""

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
from _short_fits import (
    accuracy,
    compiled,
    fashion_images,
    network,
    spoken,
    written_digits,
)
from rich.console import Console
from rich.table import Table

from tfcompress.distillation import Distiller
from tfcompress.distillation.losses import SoftLabels

TEMPERATURES = (1.0, 3.0, 6.0)
SHARES = (0.1, 0.5, 0.9)


def small(shape):
    layers = keras.layers
    stack = [keras.Input(shape)]
    for filters in (4, 8):
        stack += [layers.Conv2D(filters, 3, padding="same", activation="relu")]
        stack += [layers.MaxPooling2D()]
    return keras.Sequential([*stack, layers.Flatten(), layers.Dense(10)])


def taught(teacher, data, seed, epochs, temperature=None, share=1.0):
    """Returns the accuracy of a student, alone if there is no temperature."""
    train, test = data
    keras.utils.set_random_seed(seed)
    student = compiled(small(train[0].shape[1:]))
    fit = {"batch_size": 32, "epochs": epochs, "verbose": 0}
    if temperature is None:
        student.fit(*train, **fit)
        return accuracy(student, test)
    loss = SoftLabels(temperature)
    distiller = compiled(Distiller(teacher, student, loss, student_loss_weight=share))
    distiller.fit(*train, **fit)
    return accuracy(student, test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--spoken", help="spoken_digits.npz")
    options = parser.parse_args()
    sets = {
        "written digits": (written_digits(), 300),
        "Fashion-MNIST": (fashion_images(), 2000),
    }
    if options.spoken:
        sets["spoken digits"] = (spoken(options.spoken), 2400)
    ways = [(None, 1.0)] + [(t, a) for t in TEMPERATURES for a in SHARES]
    table = Table("data", "teacher", *map(_called, ways))
    for name, ((train, test), count) in sets.items():
        found = {way: [] for way in ways}
        best = []
        for seed in range(options.seeds):
            keras.utils.set_random_seed(seed)
            teacher = compiled(network(train[0].shape[1:]))
            teacher.fit(*train, batch_size=32, epochs=8, verbose=0)
            best.append(accuracy(teacher, test))
            data = (tuple(part[:count] for part in train), test)
            for way in ways:
                got = taught(teacher, data, seed, options.epochs, *way)
                found[way].append(got)
                print(name, seed, _called(way), round(got, 2), flush=True)
        cells = [f"{statistics.mean(found[way]):.1f}" for way in ways]
        table.add_row(name, f"{statistics.mean(best):.1f}", *cells)
    Console(width=160).print(table)


def _called(way):
    temperature, share = way
    return "alone" if temperature is None else f"T {temperature:g}, a {share:g}"


if __name__ == "__main__":
    main()
