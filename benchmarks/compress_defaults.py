"""Does `compress` with its defaults meet "25 %" on data of three sizes and kinds?

    python benchmarks/compress_defaults.py --spoken spoken_digits.npz

A small CNN is trained on each data set, and handed to `compress` with a budget of 25 %
of its packed bytes and no `search=`. What is printed as "before" and "after" are the
trained model and the result's *file* on test data that the search never saw. Data:
handwritten digits of scikit-learn (1,797 of 8x8), 20,000 pictures of Fashion-MNIST, and
spectrograms of spoken digits, if a file is given.
"""

import argparse
import json
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from _short_fits import compiled, fashion_images, network, spoken, written_digits
from rich.console import Console
from rich.table import Table

import tfcompress


def percent_right(outputs, labels):
    return 100 * float(np.mean(np.argmax(outputs, -1) == labels))


def row_of(name, train, test, options):
    """Returns the figures of one data set, as a dict."""
    x, y = train
    order = np.random.default_rng(0).permutation(len(x))
    kept, held = order[len(x) // 6 :], order[: len(x) // 6]
    learned, validation = (x[kept], y[kept]), (x[held], y[held])
    keras.utils.set_random_seed(options.seed)
    model = compiled(network(x.shape[1:]))
    model.fit(*learned, batch_size=32, epochs=options.epochs, verbose=0)
    before = percent_right(model.predict(test[0], verbose=0), test[1])
    wall, cpu = time.time(), os.times()
    budget = tfcompress.Budget(max_packed_bytes="25%", max_metric_drop=0.01)
    result = tfcompress.compress(model, learned, validation, budget)
    spent = os.times()
    print(result)
    runner = tfcompress.load(result.artifact.path)
    after = percent_right(runner(test[0]), test[1])
    measures, base = result.best.measures, result.baseline.measures
    return {
        "data": name,
        "samples": len(x),
        "met": result.met,
        "packed": measures.packed_bytes / base.packed_bytes,
        "before": before,
        "after": after,
        "minutes": (time.time() - wall) / 60,
        "cpu_minutes": (sum(spent[:4]) - sum(cpu[:4])) / 60,
        "candidates": len(result.candidates),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--spoken", help="spoken_digits.npz")
    parser.add_argument("--only", nargs="*", help="names of data sets")
    parser.add_argument("--json")
    options = parser.parse_args()
    sets = {
        "written digits": written_digits,
        "Fashion-MNIST": lambda: fashion_images(20000),
    }
    if options.spoken:
        sets["spoken digits"] = lambda: spoken(options.spoken)
    options.spoken = options.spoken and os.path.abspath(options.spoken)
    options.json = options.json and os.path.abspath(options.json)
    # A search keeps its work in `compressed/`, and would go on there the next time.
    os.chdir(tempfile.mkdtemp())
    rows = []
    for name in options.only or sets:
        train, test = sets[name]()
        rows.append(row_of(name, train, test, options))
        print(rows[-1], flush=True)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(rows, file, indent=1)
    table = Table("data", "met", "packed", "before", "after", "minutes", "CPU minutes")
    for row in rows:
        numbers = [
            f"{row['packed']:.1%}",
            f"{row['before']:.2f}",
            f"{row['after']:.2f}",
        ]
        numbers += [f"{row['minutes']:.1f}", f"{row['cpu_minutes']:.1f}"]
        table.add_row(row["data"], "yes" if row["met"] else "no", *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
