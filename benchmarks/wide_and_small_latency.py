"""What 16-bit activations and 4-bit kernels cost in LiteRT beside 8 bits.

    python benchmarks/wide_and_small_latency.py [--rounds 7]

One thread, batch 1, CPU time, in turns: three 3x3 convolutions of 32 channels on 32x32
pixels, and three Dense layers of 512; 4-bit kernels in half bytes (`int4="all"`). The
rival is the bare converter's own file with 16-bit activations, its option
`EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8`: the kernels are LiteRT's,
whoever writes the file.
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
from ai_edge_litert.interpreter import Interpreter

import tfcompress

L = keras.layers


def convolutions() -> keras.Model:
    layers = [L.Conv2D(32, 3, padding="same", activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input((32, 32, 32), name="x"), *layers])


def dense() -> keras.Model:
    layers = [L.Dense(512, "relu") for _ in range(3)]
    return keras.Sequential([keras.Input((512,), name="x"), *layers])


def bare_int16(model: keras.Model, x: np.ndarray) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    kinds = tf.lite.OpsSet
    wide = kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [wide]
    converter.representative_dataset = lambda: ([one[None]] for one in x)
    return converter.convert()


def call(content: bytes, x: np.ndarray):
    interpreter = Interpreter(model_content=content, num_threads=1)
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], x[:1].shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x[:1].astype(given["dtype"]))
    return interpreter.invoke


def main(rounds: int, calls: int) -> None:
    """Prints a table: microseconds of CPU a call, and times those of w8a8."""
    print("| layers | w8a8, us | w8a16 | bare converter, int16 | w4a8 |")
    print("|---|---|---|---|---|")
    for build in (convolutions, dense):
        model = build()
        shape = (16, *model.inputs[0].shape[1:])
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
        ways = {}
        with tempfile.TemporaryDirectory() as folder:
            for scheme in ("w8a8", "w8a16", "w4a8"):
                # Convolutions keep bytes unless they are asked for in half bytes.
                option = {"int4": "all"} if scheme == "w4a8" else {}
                quantized = tfcompress.calibrate(model, x, scheme, correct_bias=False)
                path = Path(folder) / f"{scheme}.tflite"
                tfcompress.export(tfcompress.finalize(quantized), path, **option)
                ways[scheme] = call(path.read_bytes(), x)
        ways["bare"] = call(bare_int16(model, x), x)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                start = time.process_time()
                for _ in range(calls):
                    run()
                times[way].append((time.process_time() - start) / calls * 1e6)
        found = {way: statistics.median(seconds) for way, seconds in times.items()}
        others = [found[way] / found["w8a8"] for way in ("w8a16", "bare", "w4a8")]
        cells = " | ".join(f"{ratio:.1f}x" for ratio in others)
        print(f"| {build.__name__} | {found['w8a8']:.0f} | {cells} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=50, help="in a round")
    main(**vars(parser.parse_args()))
