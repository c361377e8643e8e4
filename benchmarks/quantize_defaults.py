"""At which rate, and from which start, does a short fit of quantizers pay?

    python benchmarks/quantize_defaults.py --spoken spoken_digits.npz
        --colours cifar10_subset.npz

A small CNN is trained with Adam at 1e-3, then made integers: calibrated only; trained
for one epoch with quantizers that begin with nothing; and the same from a calibrated
start; at the rate that it was trained with, a tenth and a hundredth of it. Figures are
means over the seeds, in per cent of the test data, of the model with its quantizers,
whose values the exported file has.
"""

import argparse
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
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

import tfcompress

RATES = (1e-3, 1e-4, 1e-5)
SCHEMES = ("w8a8", "w4a8")


def colours(path):
    held = np.load(path)
    parts = (held["x_train"], held["y_train"]), (held["x_test"], held["y_test"])
    return tuple(((x / 255).astype("float32"), y.reshape(-1)) for x, y in parts)


def ways(trained, train, scheme):
    """Yields a name, a fresh integer model and the rate to train it with, or None."""
    samples = train[0][:300]
    calibrated = tfcompress.calibrate(trained, samples, scheme)
    weights = calibrated.get_weights()
    yield "calibrated", calibrated, None
    for rate in RATES:
        yield f"{rate:g}", tfcompress.quantize_aware(trained, scheme), rate
    for rate in RATES:
        calibrated.set_weights(weights)
        yield f"calibrated, {rate:g}", calibrated, rate


def fitted(model, train, rate, options, seed):
    """Trains a model with quantizers, or leaves it as it is if there is no rate."""
    keras.utils.set_random_seed(seed)
    compiled(model)
    if rate is not None:
        model.optimizer.learning_rate = rate
        model.fit(*train, batch_size=32, epochs=options.epochs, verbose=0)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--spoken", help="spoken_digits.npz")
    parser.add_argument("--colours", help="cifar10_subset.npz")
    parser.add_argument("--only", nargs="*", help="names of data sets")
    options = parser.parse_args()
    sets = {"written digits": written_digits(), "Fashion-MNIST": fashion_images()}
    if options.spoken:
        sets["spoken digits"] = spoken(options.spoken)
    if options.colours:
        sets["CIFAR-10"] = colours(options.colours)
    sets = {name: sets[name] for name in options.only or sets}
    figures = {}
    for name, (train, test) in sets.items():
        for seed in range(options.seeds):
            keras.utils.set_random_seed(seed)
            trained = compiled(network(train[0].shape[1:]))
            trained.fit(*train, batch_size=32, epochs=10, verbose=0)
            figures.setdefault((name, "", "float"), []).append(accuracy(trained, test))
            for scheme in SCHEMES:
                for way, model, rate in ways(trained, train, scheme):
                    got = accuracy(fitted(model, train, rate, options, seed), test)
                    figures.setdefault((name, scheme, way), []).append(got)
                    print(name, seed, scheme, way, round(got, 2), flush=True)
    table = Table("data", "scheme", "way", "per cent")
    for (name, scheme, way), values in figures.items():
        table.add_row(name, scheme, way, f"{statistics.mean(values):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
