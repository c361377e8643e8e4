"""A table: is this tumour malignant? Thirty numbers of a cell's nucleus, in one call.

    python examples/compress_table.py [--smoke]

The data are scikit-learn's (Wisconsin, 569 rows), so the last word is that of 114 rows:
one of them is 0.9 points. Budget: a fifth of the bytes, and one row in validation.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

import tfcompress


def load_rows(seed=0):
    """Returns rows and labels for training, choosing and the last word."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    order = np.random.default_rng(seed).permutation(len(bunch.data))
    x, y = bunch.data[order].astype("float32"), bunch.target[order]
    # One range of 8 bits cannot hold columns of 0.01 and of 1000: to one scale first.
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    fifth = len(x) // 5
    return [
        (x[part], y[part])
        for part in (slice(2 * fifth, None), slice(fifth, 2 * fifth), slice(0, fifth))
    ]


def build(columns):
    """Returns a network of three layers."""
    return keras.Sequential(
        [
            keras.Input((columns,), name="measurements"),
            layers.Dense(128, activation="relu", name="first"),
            layers.Dense(64, activation="relu", name="second"),
            layers.Dense(1, activation="sigmoid", name="benign"),
        ]
    )


def main(smoke: bool = False, output: str = "compress_table") -> tfcompress.Result:
    """Trains, compresses and judges; returns the result."""
    keras.utils.set_random_seed(0)
    train, validation, test = load_rows()
    model = build(train[0].shape[1])
    model.compile(
        keras.optimizers.Adam(2e-3), "binary_crossentropy", metrics=["accuracy"]
    )
    model.fit(*train, epochs=3 if smoke else 30, batch_size=32, verbose=0)
    result = tfcompress.compress(
        model,
        train,
        validation,
        tfcompress.Budget(max_packed_bytes="20%", max_metric_drop=0.009),
        search=tfcompress.Search(
            trials=1 if smoke else 6,
            epochs=4 if smoke else 120,
            directory=str(Path(output) / "search"),
            batch_size=32,
            verbose=0,
        ),
    )
    print(result)
    for name, predict in (
        ("before", lambda x: model.predict(x, verbose=0)),
        ("after", result.best.runner()),
    ):
        right = (predict(test[0])[:, 0] > 0.5) == test[1]
        print(f"{name}: {right.sum()} of {len(right)} rows right")
    return result


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
