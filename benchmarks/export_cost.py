"""What `export` and `verify` cost beside the bare converter, on MobileNetV2.

    python benchmarks/export_cost.py [--size 224] [--rounds 3]

The bare converter is `TFLiteConverter.from_keras_model(model).convert()` in a process
that has TensorFlow loaded. `export` also runs the file once, describes it and writes a
manifest; `verify` compares it with the model on four samples. Rounds take turns.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tfcompress


def bare(model: keras.Model) -> None:
    tf.lite.TFLiteConverter.from_keras_model(model).convert()


def exported(model: keras.Model, samples: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artifact = tfcompress.export(model, Path(folder) / "model.tflite")
        tfcompress.verify(artifact, model, samples)


def main(size: int, rounds: int) -> float:
    """Prints the seconds of each round and returns the ratio of the medians."""
    model = keras.applications.MobileNetV2((size, size, 3), weights=None)
    samples = np.random.default_rng(0).uniform(-1, 1, (4, size, size, 3))
    samples = samples.astype("float32")
    ways = {"bare": lambda: bare(model), "ours": lambda: exported(model, samples)}
    for way in ways.values():
        way()  # processes started, graphs of the libraries loaded
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    for name, found in times.items():
        print(name, " ".join(f"{seconds:.1f}" for seconds in found), "s")
    ratio = statistics.median(times["ours"]) / statistics.median(times["bare"])
    print(f"ratio {ratio:.2f}")
    return ratio


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    main(**vars(parser.parse_args()))
