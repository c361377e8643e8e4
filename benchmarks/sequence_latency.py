"""Are int8 files of sequences faster and smaller than float, and than the converter's?

    python benchmarks/sequence_latency.py
    python benchmarks/sequence_latency.py --models LSTM --rounds 21

Recurrent networks and encoder blocks with random weights, LiteRT, 1 thread, batch 1:
the float file, the int8 file that TensorFlow Lite's own converter makes of the model by
calibration (recurrent layers unrolled, or it makes none), and tfcompress' file. The
three take turns, and CPU time is counted.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import tfcompress


def recurrent(layer, steps, width, unroll):
    inputs = keras.Input((steps, width), name="series")
    return keras.Model(inputs, layers.Dense(10)(layer(unroll=unroll)(inputs)))


def encoder(blocks, unroll):
    del unroll
    inputs = x = keras.Input((32, 64), name="tokens")
    for _ in range(blocks):
        x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(x, x)])
        x = layers.LayerNormalization()(x)
        y = layers.Dense(64)(layers.Dense(256, activation="relu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def lstm(unroll):
    return layers.LSTM(64, unroll=unroll)


def gru(unroll):
    return layers.GRU(48, unroll=unroll)


MODELS = {
    "LSTM(64), 28 steps": lambda unroll: recurrent(lstm, 28, 28, unroll),
    "GRU(48), 16 steps": lambda unroll: recurrent(gru, 16, 13, unroll),
    "encoder, 1 block": lambda unroll: encoder(1, unroll),
    "encoder, 2 blocks": lambda unroll: encoder(2, unroll),
}


def built(name, unroll=False):
    keras.utils.set_random_seed(0)
    return MODELS[name](unroll)


def converted(model, data, path):
    """Writes the int8 file of the bare converter."""
    signature = [tf.TensorSpec((1, *model.input_shape[1:]))]
    call = tf.function(lambda x: model(x, training=False), input_signature=signature)
    module = tf.Module()
    module.held = [variable.value for variable in model.variables]
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=call)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in data)
        path.write_bytes(converter.convert())
    return path


def files(name, folder):
    """Returns the three files of a model."""
    model = built(name)
    data = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:]))
    data = data.astype("float32")
    plain = tfcompress.export(model, folder / "float.tflite").path
    bare = converted(built(name, unroll=True), data, folder / "bare.tflite")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    made = tfcompress.export(final, folder / "ours.tflite")
    return [plain, bare, made.path]


def microseconds(paths, calls, rounds):
    """Returns the median CPU time of a call of each file."""
    interpreters = [Interpreter(model_path=str(p), num_threads=1) for p in paths]
    for one in interpreters:
        one.allocate_tensors()
        (entry,) = one.get_input_details()
        sample = np.random.default_rng(1).normal(size=entry["shape"])
        one.set_tensor(entry["index"], sample.astype("float32"))
        one.invoke()
    times = [[] for _ in interpreters]
    for _ in range(rounds):
        for one, found in zip(interpreters, times):
            start = time.thread_time()
            for _ in range(calls):
                one.invoke()
            found.append((time.thread_time() - start) / calls * 1e6)
    return [statistics.median(found) for found in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--calls", type=int, default=60, help="of a file in a round")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    names = [n for n in MODELS if any(n.startswith(one) for one in options.models)]
    print("| | float: us, kB | bare int8 | tfcompress int8 | of float | of bare |")
    print("|---|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paths = files(name, Path(folder))
            times = microseconds(paths, options.calls, options.rounds)
            sizes = [path.stat().st_size / 1000 for path in paths]
        cells = [f"{t:.1f}, {size:.1f}" for t, size in zip(times, sizes)]
        ratios = [f"{times[2] / other:.2f}x" for other in times[:2]]
        print("|", " | ".join([name, *cells, *ratios]), "|", flush=True)


if __name__ == "__main__":
    main()
