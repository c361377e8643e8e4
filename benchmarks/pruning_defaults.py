"""What the defaults of pruning cost in short fits: how many updates, and which scope.

    python benchmarks/pruning_defaults.py
    python benchmarks/pruning_defaults.py --spoken spoken_digits.npz

A small CNN is trained, then pruned to 90 % zeros in a fit of some hundred steps, with
Adam at the rate that it was trained with. A row is a criterion and a scope, a column a
number of updates on the way (`frequency` is a share of the ramp). Data: handwritten
digits of scikit-learn (1,797 of 8x8), Fashion-MNIST (4,000 pictures), and spectrograms
of spoken digits, if a file of them is given. Figures are means over the seeds, in per
cent of the test data.
"""

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
from _short_fits import (
    BATCH,
    accuracy,
    compiled,
    fashion_images,
    network,
    spoken,
    written_digits,
)
from rich.console import Console
from rich.table import Table

import tfcompress

WAYS = ("magnitude@layer", "magnitude@global", "magnitude@balanced", "lamp@global")


def pruned(trained, data, way, updates, options, seed):
    """Returns the accuracy of a trained model after a pruned fit."""
    train, test = data
    keras.utils.set_random_seed(seed)
    model = compiled(keras.models.clone_model(trained))
    model.set_weights(trained.get_weights())
    steps = -(-len(train[0]) // BATCH) * options.epochs
    every = max(round(0.75 * steps / updates), 1)
    schedule = tfcompress.PolynomialSparsity(0.0, options.sparsity, frequency=every)
    criterion, scope = way.split("@")
    prune = tfcompress.PruneWeights(schedule, criterion, scope=scope)
    fit = {"epochs": options.epochs, "batch_size": BATCH, "verbose": 0}
    model.fit(*train, callbacks=[prune], **fit)
    return accuracy(model, test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--updates", type=int, nargs="+", default=[3, 10, 50])
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument("--spoken", help="spoken_digits.npz")
    options = parser.parse_args()
    sets = {"written digits": written_digits(), "Fashion-MNIST": fashion_images()}
    if options.spoken:
        sets["spoken digits"] = spoken(options.spoken)
    head = [f"{n} updates" for n in options.updates]
    table = Table("data", "before", "criterion and scope", *head)
    for name, data in sets.items():
        start = []
        found = {}
        for seed in range(options.seeds):
            keras.utils.set_random_seed(seed)
            trained = compiled(network(data[0][0].shape[1:]))
            trained.fit(*data[0], batch_size=BATCH, epochs=8, verbose=0)
            start.append(accuracy(trained, data[1]))
            for way in options.ways:
                for updates in options.updates:
                    got = pruned(trained, data, way, updates, options, seed)
                    found.setdefault((way, updates), []).append(got)
                    print(name, seed, way, updates, round(got, 2), flush=True)
        for way in options.ways:
            cells = [statistics.mean(found[way, n]) for n in options.updates]
            before = f"{statistics.mean(start):.1f}"
            table.add_row(name, before, way, *(f"{cell:.1f}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
