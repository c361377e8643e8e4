"""What `pack` costs on dense int8 kernels, beside gzip and Brotli.

    python benchmarks/pack_cost.py [--millions 5] [--rounds 3]

The file is the .tflite file of five equal Dense layers with normal weights, calibrated
to 8 bits. Nothing prunes or clusters them, so a general compressor has nothing to find,
and takes longest. CPU time of all threads, in turns; Brotli's best quality gets a fifth
of the file, for it takes seconds a million. It ends with an error if the file does not
come back as it was.
"""

import argparse
import gzip
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import brotli
import keras
import numpy as np

import tfcompress

LAYERS = 5


def exported(millions: float, path: Path) -> bytes:
    """Returns the content of the file that is packed."""
    width = round((millions * 1e6 / LAYERS) ** 0.5)
    model = keras.Sequential([keras.Input((width,), name="x")])
    for seed in range(LAYERS):
        spread = keras.initializers.RandomNormal(stddev=width**-0.5, seed=seed)
        model.add(keras.layers.Dense(width, "relu", kernel_initializer=spread))
    samples = np.random.default_rng(0).normal(size=(16, width)).astype("float32")
    quantized = tfcompress.calibrate(model, samples, "w8a8", correct_bias=False)
    tfcompress.export(tfcompress.finalize(quantized), path)
    return path.read_bytes()


def main(millions: float, rounds: int) -> float:
    """Prints seconds and sizes; returns the CPU seconds of `pack`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = exported(millions, folder / "model.tflite")
        part, packed = content[: len(content) // LAYERS], folder / "packed"
        ways = {
            "pack": lambda: (
                tfcompress.pack(folder / "model.tflite", packed, overwrite=True).size
            ),
            "gzip -9": lambda: len(gzip.compress(content, 9)),
            f"Brotli 11, 1/{LAYERS} of the file": lambda: len(brotli.compress(part)),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        sizes = {}
        for _ in range(rounds):
            for way, run in ways.items():
                start = time.process_time()
                sizes[way] = run()
                times[way].append(time.process_time() - start)
        tfcompress.unpack(packed, folder / "back")
        if (folder / "back" / "model.tflite").read_bytes() != content:
            raise SystemExit("what came back is not what was packed")
    print(f"{len(content):,} bytes")
    for way, seconds in times.items():
        print(f"{way}: {statistics.median(seconds):.2f} s, {sizes[way]:,} bytes")
    return statistics.median(times["pack"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, default=5, help="of parameters")
    parser.add_argument("--rounds", type=int, default=3)
    main(**vars(parser.parse_args()))
