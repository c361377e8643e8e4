"""What does LiteRT's LSTM operator gain, and what does it cost?

    python benchmarks/fused_lstm.py
    python benchmarks/fused_lstm.py --spoken spoken_digits.npz
    python benchmarks/fused_lstm.py --models long

LSTMs trained on the rows of Fashion-MNIST (and on spectrograms of spoken digits, if a
file is given), and one of 100 steps with random weights, are calibrated and exported as
`recurrent="unrolled"` and "fused". For each file: accuracy, bytes, CPU time in LiteRT
(one thread) and in tflite-micro, where both run on portable C++ kernels, and the arena
there. The float file stands beside them. How far a file is from the float model and
from the finalized one is counted in steps of the output, over samples of the test.
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
from _short_fits import fashion_images
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import tfcompress

TESTED = 2000


def fashion():
    (x, y), (x_test, y_test) = fashion_images(20000)
    return x.reshape(-1, 28, 28), y, x_test.reshape(-1, 28, 28), y_test


def spoken(path):
    held = np.load(path)
    x, x_test = (held[name].astype("float32") for name in ("x_train", "x_test"))
    return x, held["y_train"], x_test, held["y_test"]


def network(shape, units):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, name="series")
    x = layers.LSTM(units, name="reader")(inputs)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def trained(model, x, y, epochs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y.astype("int32"), epochs=epochs, batch_size=64, verbose=0)
    return model


def outputs(path, x):
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (read,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for sample in x:
        interpreter.set_tensor(read["index"], sample[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(made["index"])[0])
    return np.array(found)


def on_phone(path):
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter.invoke


def on_board(folder):
    """Returns a call of tflite-micro, and its arena in bytes."""
    runner = tfcompress.load(folder)
    (info,) = runner.inputs
    call = runner.bind({info.name: np.zeros(info.shape, info.dtype)})
    return call, runner.arena


def microseconds(calls, times=20, rounds=9):
    """Returns the median CPU time of calls that take turns."""
    found = [[] for _ in calls]
    for _ in range(rounds):
        for call, one in zip(calls, found):
            start = time.thread_time()
            for _ in range(times):
                call()
            one.append((time.thread_time() - start) / times * 1e6)
    return [statistics.median(one) for one in found]


def row(name, model, x, x_test, y_test):
    """Prints the figures of one model."""
    final = tfcompress.finalize(tfcompress.calibrate(model, x[:256]))
    x_test = x_test[:TESTED]
    wanted = [one.predict(x_test, verbose=0) for one in (model, final)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files, boards = [tfcompress.export(model, folder / "float.tflite")], []
        for kind in ("unrolled", "fused"):
            path = folder / f"{kind}.tflite"
            files.append(tfcompress.export(final, path, recurrent=kind, check="warn"))
            path = folder / kind
            options = {"format": "micro", "recurrent": kind, "check": "warn"}
            tfcompress.export(final, path, **options)
            boards.append(on_board(path))
        phone = microseconds([on_phone(one.path) for one in files])
        board = [np.nan, *microseconds([call for call, _ in boards])]
        arenas = [np.nan, *(arena for _, arena in boards)]
        for place, one in enumerate(files):
            made, cells = (
                outputs(one.path, x_test),
                [name, ["float", "unrolled", "fused"][place]],
            )
            if y_test is not None:
                right = made.argmax(1) == y_test[:TESTED]
                cells.append(f"{100 * right.mean():.2f} %")
            else:
                cells.append("")
            cells.append(f"{one.size / 1000:.1f}")
            cells += [f"{phone[place]:.0f}", f"{board[place]:.0f}"]
            cells.append(f"{arenas[place] / 1000:.1f}")
            for expected in wanted:
                apart = np.abs(made - expected) / files[1].outputs[0].step
                cells.append(f"{apart.max():.1f}, {apart.mean():.2f}")
            print("|", " | ".join(cells), "|", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spoken", help="spoken_digits.npz")
    parser.add_argument("--models", nargs="+", default=["long", "fashion", "spoken"])
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| | file | accuracy | kB | LiteRT, us | tflite-micro, us | arena, kB | off "
        "float: largest, mean | off finalized |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    if "long" in options.models:
        series = np.random.default_rng(0).normal(size=(400, 100, 8)).astype("float32")
        model = network((100, 8), 32)
        row("LSTM(32), 100 steps", model, series, series[256:], None)
    if "fashion" in options.models:
        x, y, x_test, y_test = fashion()
        model = trained(network((28, 28), 64), x, y, options.epochs)
        row("LSTM(64), 28 steps, Fashion-MNIST", model, x, x_test, y_test)
    if "spoken" in options.models and options.spoken:
        x, y, x_test, y_test = spoken(options.spoken)
        model = trained(network((64, 32), 64), x, y, 5 * options.epochs)
        row("LSTM(64), 64 steps, spoken digits", model, x, x_test, y_test)


if __name__ == "__main__":
    main()
