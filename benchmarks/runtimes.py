"""Integers in every runtime: do ONNX Runtime and OpenVINO compute what LiteRT does?

    python benchmarks/runtimes.py
    python benchmarks/runtimes.py --models vit gru --formats onnx --sums float
    python benchmarks/runtimes.py --h5 pretrainedResnet.h5 --data cifar10_subset.npz

Each model is calibrated on random samples, finalized and exported, in float and in
integers. A row says how many of the finalized model's output steps a file is off on 64
samples that calibration has not seen, and how long a call with one of them takes (one
thread; float and integers in turns, median of the rounds' medians).

With `--h5` and `--data` it is a model of one's own, and accuracy instead: the file has
arrays `x_train`, `x_test` and `y_test`, and is calibrated on the first 256 samples.
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from _latency import speed_up
from keras import layers
from quantize_applications import application, smooth_images

import tfcompress

FORMATS = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ""}


def encoder(tokens, width, heads, blocks):
    """Returns an encoder's output for embedded tokens."""
    x = tokens
    for _ in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(heads, width // heads)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(2 * width, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    return layers.LayerNormalization(epsilon=1e-6)(x)


def vit():
    """Returns a small vision transformer on images of 32x32."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(64, 4, strides=4)(inputs)
    x = encoder(layers.Reshape((64, 64))(x), 64, 4, 4)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def bert():
    """Returns a small text encoder with positions."""
    inputs = keras.Input((32,), dtype="int32", name="tokens")
    places = layers.Embedding(32, 64)(keras.ops.arange(32))
    x = layers.Embedding(1000, 64)(inputs) + places
    x = encoder(x, 64, 4, 2)
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x[:, 0]))


def recurrent(layer):
    """Returns a net of two recurrent layers, the first in both directions."""
    inputs = keras.Input((24, 16), name="series")
    x = layers.Bidirectional(layer(24, return_sequences=True))(inputs)
    return keras.Model(inputs, layers.Dense(5)(layer(16)(x)))


def residual():
    """Returns a small residual net with BatchNormalization."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization()(y)
        x = layers.Conv2D(filters, 1, strides)(x) if strides > 1 else x
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def of_family(name):
    return lambda: application(name, 96)


MODELS = {
    "residual": residual,
    "vit": vit,
    "bert": bert,
    "gru": lambda: recurrent(layers.GRU),
    "lstm": lambda: recurrent(layers.LSTM),
    **{
        name: of_family(name)
        for name in ("MobileNetV3Small", "EfficientNetB0", "ConvNeXtTiny")
    },
}


def samples_for(model, count, seed):
    """Returns inputs such as a model takes."""
    rng = np.random.default_rng(seed)
    shape = model.input_shape[1:]
    if "int" in model.input.dtype:
        return rng.integers(0, 1000, (count, *shape)).astype("int32")
    if len(shape) == 3:
        return smooth_images(model, count, seed)
    return rng.normal(size=(count, *shape)).astype("float32")


def exported(model, final, folder, formats, sums):
    """Returns for each format what was written: float, integers (or the reason)."""
    files = {}
    for kind in formats:
        pair = []
        for numbers, one in (("float", model), ("int8", final)):
            path = Path(folder) / f"{numbers}{FORMATS[kind]}"
            options = {"exact_sums": sums == "exact"} if kind == "onnx" else {}
            try:
                pair.append(
                    tfcompress.export(one, path, format=kind, batch_size=1, **options)
                )
            except tfcompress.CompressionError as error:
                pair.append(str(error))
        files[kind] = pair
    return files


def in_steps(file, final, inputs):
    """Returns how many output steps a file is off at most, and the share that is."""
    run = tfcompress.load(file.path)
    got = np.concatenate([np.asarray(run(row[None])) for row in inputs])
    expected = final.predict(inputs, verbose=0)
    steps = np.abs(got - expected) / file.outputs[0].step
    return float(steps.max()), float((steps > 0.5).mean())


def compare(name, options):
    """Prints the rows of one model."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    inputs = samples_for(model, 64, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tfcompress.CompressionWarning)
        aware = tfcompress.calibrate(model, samples_for(model, 64, 1))
        final = tfcompress.finalize(aware)
        with tempfile.TemporaryDirectory() as folder:
            files = exported(model, final, folder, options.formats, options.sums)
            for kind, pair in files.items():
                wrong = [one for one in pair if isinstance(one, str)]
                if wrong:
                    print(f"| {name} | {kind} | {wrong[-1]} |", flush=True)
                    continue
                most, share = in_steps(pair[1], final, inputs)
                row = speed_up(pair, inputs[:1], options.runs, options.rounds)
                print(
                    f"| {name} | {kind} | {most:.2f} | {share:.2%} "
                    f"| {row['first_ms']:.2f} | {row['second_ms']:.2f} "
                    f"| {row['speed_up']:.2f}x |",
                    flush=True,
                )


def accuracy(path, data, formats):
    """Prints the accuracy of a model of one's own, in Keras and in each runtime."""
    model = keras.models.load_model(path, compile=False)
    data = np.load(data)
    train, test = (data[f"x_{part}"].astype("float32") for part in ("train", "test"))
    labels = data["y_test"].reshape(-1)
    final = tfcompress.finalize(tfcompress.calibrate(model, train[:256]))

    def right(outputs):
        return f"{np.mean(np.argmax(outputs, -1) == labels):.2%}"

    print("| what | accuracy | same class as the finalized model |\n|---|---|---|")
    print(f"| Keras, float | {right(model.predict(test, verbose=0))} | |")
    expected = final.predict(test, verbose=0)
    print(f"| Keras, finalized | {right(expected)} | |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for kind in formats:
            path = Path(folder) / f"model{FORMATS[kind]}"
            file = tfcompress.export(final, path, format=kind)
            outputs = np.asarray(tfcompress.load(file.path)(test))
            same = np.mean(outputs.argmax(-1) == expected.argmax(-1))
            print(f"| {kind}, int8 | {right(outputs)} | {same:.2%} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument(
        "--sums", default="exact", choices=("exact", "float"), help="of ONNX files"
    )
    parser.add_argument("--runs", type=int, default=30, help="calls in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--h5", help="a model of one's own")
    parser.add_argument("--data", help="its data, an .npz file")
    options = parser.parse_args()
    if options.h5:
        return accuracy(options.h5, options.data, options.formats)
    print(
        "| model | runtime | most steps off | values off | float, ms | int8, ms "
        "| faster by |\n|---|---|---|---|---|---|---|"
    )
    for name in options.models:
        compare(name, options)
    return None


if __name__ == "__main__":
    main()
