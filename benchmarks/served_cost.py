"""What a SavedModel of a finalized model costs a server beside the float model.

    python benchmarks/served_cost.py [--models dense lstm encoder resnet] [--rounds 9]

CPU time of `serving_default` in this process, batches of 1 and 32, in turns, and the
bytes of the version. The rival is the float model, which is what a server would run
otherwise. It ends with an error if the served numbers are not, bit for bit, those of
the model traced as it stands, with its kernels divided and rounded in each call.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

import tfcompress
from tfcompress.exporters.tracing import trace

L = keras.layers
BATCHES = (1, 32)


def dense() -> keras.Model:
    layers = [L.Dense(1024, "relu") for _ in range(3)]
    return keras.Sequential([keras.Input((1024,), name="x"), *layers, L.Dense(10)])


def lstm() -> keras.Model:
    return keras.Sequential([keras.Input((28, 28), name="x"), L.LSTM(64), L.Dense(10)])


def encoder() -> keras.Model:
    x = given = keras.Input((32, 64), name="x")
    for _ in range(2):
        x = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(4, 16)(x, x)]))
        hidden = L.Dense(64)(L.Dense(128, "relu")(x))
        x = L.LayerNormalization()(L.Add()([x, hidden]))
    return keras.Model(given, L.Dense(10)(L.GlobalAveragePooling1D()(x)))


def resnet() -> keras.Model:
    x = given = keras.Input((32, 32, 3), name="x")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(16, 3, padding="same")(x)))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        h = L.Conv2D(filters, 3, stride, padding="same")(x)
        h = L.ReLU()(L.BatchNormalization()(h))
        h = L.BatchNormalization()(L.Conv2D(filters, 3, padding="same")(h))
        if stride > 1:
            x = L.Conv2D(filters, 1, stride, padding="same")(x)
        x = L.ReLU()(L.Add()([x, h]))
    return keras.Model(given, L.Dense(10)(L.GlobalAveragePooling2D()(x)))


MODELS = {build.__name__: build for build in (dense, lstm, encoder, resnet)}


def costs(build, rounds: int, calls: int) -> list[str]:
    """Returns the cells of a row: bytes and times, as shares of the float model's."""
    keras.utils.set_random_seed(0)
    model = build()
    shape = (max(BATCHES), *model.inputs[0].shape[1:])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    quantized = tfcompress.calibrate(model, x, "w8a8", correct_bias=False)
    final = tfcompress.finalize(quantized)
    options = {"float": {}, "exact": {}, "plain": {"exact_integers": False}}
    ways, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way, option in options.items():
            one = model if way == "float" else final
            path = Path(folder) / way
            made = tfcompress.export(one, path, format="saved_model", **option)
            sizes[way] = made.size
            module = tf.saved_model.load(str(made.path))
            ways[way] = module, module.signatures["serving_default"]
    (served,) = ways["exact"][1](x=tf.constant(x)).values()
    (traced,) = trace(final).function(tf.constant(x)).values()
    if served.numpy().tobytes() != traced.numpy().tobytes():
        raise SystemExit(f"{build.__name__}: served numbers are others")
    times: dict = {(way, batch): [] for way in ways for batch in BATCHES}
    for _ in range(rounds + 1):
        for way, batch in times:
            given, signature = tf.constant(x[:batch]), ways[way][1]
            start = time.process_time()
            for _ in range(calls):
                signature(x=given)
            times[way, batch].append((time.process_time() - start) / calls * 1e3)
    # The first round compiles.
    found = {key: statistics.median(values[1:]) for key, values in times.items()}
    cells = [f"{sizes['exact'] / sizes['float']:.2f}x of {sizes['float']:,} B"]
    for batch in BATCHES:
        cells.append(f"{found['float', batch]:.2f}")
        for way in ("exact", "plain"):
            cells.append(f"{found[way, batch] / found['float', batch]:.2f}x")
    return cells


def main(models: list[str], rounds: int, calls: int) -> None:
    """Prints a table."""
    print("| model | bytes | float, ms | exact | plain | float, 32 | exact | plain |")
    print("|---|---|---|---|---|---|---|---|")
    for name in models:
        cells = costs(MODELS[name], rounds, calls)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=20, help="in a round")
    main(**vars(parser.parse_args()))
