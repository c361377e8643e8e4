"""What do Arm's NPUs take of a model, in how many cycles, and what does `shrink` save?

    python benchmarks/ethos_u.py
    python benchmarks/ethos_u.py --mlperf folder/with/mlperf_tiny --npus u55-256

Each model is calibrated with random inputs, which decides ranges but no cycles, once as
it is and once after `shrink(model, macs=0.5)`, and compiled by Vela. "bare" is the same
float model rounded by TensorFlow's own converter, and compiled by the same Vela. All
figures are Vela's; nothing ran on a board.
"""

import argparse
import json
import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

import tfcompress
from tfcompress.core.errors import CompressionError, CompressionWarning, ExportError
from tfcompress.exporters.ethos_u.chips import chip
from tfcompress.exporters.ethos_u.compiling import compile_for

L = keras.layers
SAMPLES = 64
MLPERF = {"ResNet-8": "pretrainedResnet.h5", "MobileNet v1 0.25": "vww_96.h5"}


def cnn():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            L.Conv2D(16, 3, activation="relu", name="conv_1"),
            L.MaxPooling2D(name="pool_1"),
            L.Conv2D(32, 3, activation="relu", name="conv_2"),
            L.MaxPooling2D(name="pool_2"),
            L.Flatten(name="flat"),
            L.Dense(64, activation="relu", name="hidden"),
            L.Dense(10, name="logits"),
        ]
    )


def separable():
    layers = [keras.Input((32, 32, 3), name="image"), *convolution(8, 3, 2, "stem")]
    for number, filters in enumerate((16, 32, 32)):
        layers += convolution(0, 3, 1 + number % 2, f"depth_{number}")
        layers += convolution(filters, 1, 1, f"point_{number}")
    layers += [L.GlobalAveragePooling2D(name="mean"), L.Dense(10, name="logits")]
    return keras.Sequential(layers)


def convolution(filters, size, strides, name):
    how = {"padding": "same", "use_bias": False, "strides": strides, "name": name}
    one = L.Conv2D(filters, size, **how) if filters else L.DepthwiseConv2D(size, **how)
    return [one, L.BatchNormalization(name=f"{name}_norm"), L.ReLU(6, name=f"{name}_r")]


def residual():
    image = keras.Input((32, 32, 3), name="image")
    x = chain(image, convolution(16, 3, 1, "stem"))
    for number in range(2):
        y = chain(x, convolution(16, 3, 1, f"first_{number}"))
        y = chain(y, convolution(16, 3, 1, f"second_{number}"))
        x = L.ReLU(name=f"out_{number}")(L.Add(name=f"add_{number}")([x, y]))
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, L.Dense(10, name="logits")(x))


def chain(x, layers):
    for layer in layers:
        x = layer(x)
    return x


def recurrent(kind):
    steps = keras.Input((16, 12), name="steps")
    x = kind(32, name="recurrent")(steps)
    return keras.Model(steps, L.Dense(5, name="logits")(x))


def encoder():
    tokens = keras.Input((16, 32), name="tokens")
    x = L.MultiHeadAttention(4, 8, name="attend")(tokens, tokens)
    x = y = L.LayerNormalization(name="norm_1")(L.Add(name="add_1")([x, tokens]))
    x = L.Dense(64, activation="gelu", name="up")(x)
    x = L.Dense(32, name="down")(x)
    x = L.LayerNormalization(name="norm_2")(L.Add(name="add_2")([x, y]))
    x = L.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(tokens, L.Dense(5, name="logits")(x))


def words():
    ids = keras.Input((16,), dtype="int32", name="ids")
    x = L.Embedding(2, 16, name="table")(ids)
    x = L.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(ids, L.Dense(5, name="logits")(x))


MODELS = {
    "CNN": cnn,
    "depthwise, like MobileNet": separable,
    "residual, like ResNet": residual,
    "LSTM": lambda: recurrent(L.LSTM),
    "GRU": lambda: recurrent(L.GRU),
    "transformer encoder": encoder,
    "embedding": words,
}


class OldDepthwise(L.DepthwiseConv2D):
    """Reads what Keras 2 wrote."""

    def __init__(self, *args, groups=1, **kwargs):
        super().__init__(*args, **kwargs)


def trained(path):
    known = {"DepthwiseConv2D": OldDepthwise}
    model = keras.models.load_model(path, compile=False, custom_objects=known)
    # The layer itself, not what reads its file.
    return keras.models.clone_model(model, clone_function=_plain), model


def _plain(layer):
    if isinstance(layer, OldDepthwise):
        return L.DepthwiseConv2D.from_config(layer.get_config())
    return type(layer).from_config(layer.get_config())


def models(names, mlperf):
    """Yields names and models."""
    for name in names:
        keras.utils.set_random_seed(0)
        yield name, MODELS[name]()
    for name, file in MLPERF.items() if mlperf else ():
        copy, original = trained(mlperf / file)
        copy.set_weights(original.get_weights())
        yield f"{name} (MLPerf Tiny)", copy


def inputs_for(model):
    (tensor,) = model.inputs
    rng = np.random.default_rng(0)
    shape = (SAMPLES, *tensor.shape[1:])
    if "int" in str(tensor.dtype):
        return rng.integers(0, 2, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def rounded(model, folder):
    """Returns the integer file that tfcompress makes, and the model it is of."""
    final = tfcompress.finalize(tfcompress.calibrate(model, inputs_for(model)))
    artifact = tfcompress.export(final, folder, format="ethos_u", check="warn")
    return artifact.path / "model.tflite", final


def unrolled(layer):
    config = layer.get_config()
    if "unroll" in config:
        config["unroll"] = True  # or the converter makes nothing of it
    return type(layer).from_config(config)


def bare(model, path):
    """Returns the file that TensorFlow's own converter makes; None if it makes none."""
    samples = inputs_for(model)
    single = {"batch_shape": (1, *samples.shape[1:]), "dtype": samples.dtype.name}
    one = keras.tree.map_structure(lambda _: keras.Input(**single), model.input)
    copy = keras.models.clone_model(model, one, clone_function=unrolled)
    copy.set_weights(model.get_weights())
    converter = tf.lite.TFLiteConverter.from_keras_model(copy)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if samples.dtype == np.float32:
        converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    try:
        path.write_bytes(converter.convert())
    except Exception as error:  # whatever the converter raises
        print(f"<!-- bare: {str(error).splitlines()[0][:120]} -->")
        return None
    return path


def measure(model, npus):
    """Yields for each NPU what Vela says: of the model, after `shrink`, of the bare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [rounded(model, folder / "whole")]
        try:
            files.append(rounded(tfcompress.shrink(model, macs=0.5), folder / "small"))
        except CompressionError:
            files.append((None, None))  # no channels that could be removed
        files.append((bare(model, folder / "bare.tflite"), model))
        for npu in npus:
            yield npu, [compiled(*file, npu, folder) for file in files]


def compiled(path, model, npu, folder):
    """Returns what Vela says of a file; None if there is none, or it refuses."""
    if path is None:
        return None
    target = folder / "compiled.tflite"
    try:
        return compile_for(chip(npu), path, target, model, "performance")
    except ExportError as error:
        print(f"<!-- {path.name}, {npu}: {str(error).splitlines()[0][:120]} -->")
        return None


def row(name, npu, whole, small, plain):
    """Prints and returns the figures of one model on one NPU."""
    after = other = "- | -"
    if small is not None:
        kept = small.cycles / whole.cycles
        after = f"{small.cycles:,} ({kept:.2f}x) | {small.sram:,}"
    if plain is not None:
        other = f"{plain.share:.0%} | {plain.cycles:,}"
    print(
        f"| {name} | {npu} | {whole.share:.0%} | {whole.cycles:,} | {whole.sram:,} | "
        f"{after} | {other} |",
        flush=True,
    )
    left = list(dict.fromkeys(map(str, whole.left)))
    if left:
        print(f"<!-- on the CPU: {', '.join(left)} -->")
    return {
        "model": name,
        "npu": npu,
        "share": whole.share,
        "cycles": whole.cycles,
        "sram": whole.sram,
        "left": left,
        "shrunk_cycles": small and small.cycles,
        "shrunk_sram": small and small.sram,
        "bare_share": plain and plain.share,
        "bare_cycles": plain and plain.cycles,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npus", nargs="+", default=["u55-128", "u65-256", "u85-256"])
    parser.add_argument("--models", nargs="*", default=[*MODELS], choices=[*MODELS])
    parser.add_argument("--mlperf", type=Path, help="folder with models of MLPerf Tiny")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    rows = []
    print(
        "| model | NPU | on the NPU | cycles | SRAM | after `shrink`, cycles | SRAM | "
        "bare: on the NPU | cycles |\n|---|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    for name, model in models(options.models, options.mlperf):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompressionWarning)
            for npu, found in measure(model, options.npus):
                rows.append(row(name, npu, *found))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
