"""What `calibrate` costs: against depth, and beside converters that calibrate.

    python benchmarks/calibration_cost.py [--depths 8 16 32 64] [--rounds 3]

First a chain of Dense(64) layers on 256 samples, so that a cost that grows with the
square of the depth would be seen; a small encoder of transformers; then MobileNetV2
(alpha 0.35, 96 x 96) on 128 samples, from the float model to an int8 file: `calibrate`,
`finalize` and `export`, the bare converter with the same representative data, and
the static recipes of ai-edge-quantizer and litert-quantizer where these are installed.
They take turns. Figures are CPU seconds, which other programs disturb least, with those
of child processes (of children that go on waiting for work, on Linux only).
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

import tfcompress

SAMPLES = 128
SIZE = 96


def cpu_seconds() -> float:
    """Returns what this process and its children have spent."""
    times = os.times()
    ended = times.user + times.system + times.children_user + times.children_system
    return ended + sum(map(of_process, children(os.getpid())))


def children(process: int) -> list[int]:
    """Returns the children of a process that live, and theirs; none but on Linux."""
    found = []
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            found += [child, *children(child)]
    return found


def of_process(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0.0
    # Of the process itself, and of its own children that have ended.
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def spent(function) -> float:
    start = cpu_seconds()
    function()
    return cpu_seconds() - start


def chain(depth: int) -> keras.Model:
    dense = [
        keras.layers.Dense(64, "relu", kernel_initializer="he_normal")
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((64,), name="x"), *dense])


def encoder(blocks: int = 3, width: int = 128, words: int = 1000) -> keras.Model:
    layers = keras.layers
    ids = keras.Input((32,), dtype="int32", name="ids")
    x = layers.Embedding(words, width)(ids)
    for _ in range(blocks):
        attended = layers.MultiHeadAttention(4, width // 4)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        hidden = layers.Dense(width)(layers.Dense(3 * width, "gelu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, hidden]))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(ids, layers.Dense(10)(x))


def ours(model: keras.Model, samples: np.ndarray, folder: Path) -> None:
    final = tfcompress.finalize(tfcompress.calibrate(model, samples))
    tfcompress.export(final, folder / "ours.tflite")


def converter(model: keras.Model, samples: np.ndarray, folder: Path) -> None:
    bare = tf.lite.TFLiteConverter.from_keras_model(model)
    bare.optimizations = [tf.lite.Optimize.DEFAULT]
    bare.representative_dataset = lambda: ([one[None]] for one in samples)
    (folder / "bare.tflite").write_bytes(bare.convert())


def float_file(model: keras.Model, folder: Path) -> Path:
    path = folder / "float.tflite"
    bare = tf.lite.TFLiteConverter.from_keras_model(model)
    path.write_bytes(bare.convert())
    return path


def ai_edge(model: keras.Model, samples: np.ndarray, folder: Path) -> None:
    quantized_by("ai_edge_quantizer", model, samples, folder)


def litert(model: keras.Model, samples: np.ndarray, folder: Path) -> None:
    quantized_by("litert_quantizer", model, samples, folder)


def quantized_by(package, model, samples, folder) -> None:
    module = importlib.import_module(package)
    recipe = importlib.import_module(f"{package}.recipe").static_wi8_ai8()
    quantizer = module.Quantizer(str(float_file(model, folder)), recipe)
    name = model.inputs[0].name
    batches = {"serving_default": [{name: one[None]} for one in samples]}
    quantizer.quantize(quantizer.calibrate(batches)).export_model(
        str(folder / f"{package}.tflite"), overwrite=True
    )


def ways() -> dict:
    found = {"tfcompress": ours, "converter": converter}
    for package, way in (("ai_edge_quantizer", ai_edge), ("litert_quantizer", litert)):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: skipped")
        else:
            found[package] = way
    return found


def against_depth(depths: list[int]) -> None:
    samples = np.random.default_rng(0).normal(size=(256, 64)).astype("float32")
    tfcompress.calibrate(chain(2), samples)  # the libraries are loaded
    for depth in depths:
        model = chain(depth)
        seconds = spent(lambda model=model: tfcompress.calibrate(model, samples))
        print(f"calibrate, Dense chain of {depth}: {seconds:.2f} s", flush=True)
    model = encoder()
    words = np.random.default_rng(0).integers(0, 1000, (SAMPLES, 32))
    seconds = spent(lambda: tfcompress.calibrate(model, words))
    count = model.count_params()
    print(f"calibrate, encoder of {count} parameters: {seconds:.2f} s", flush=True)


def beside_others(rounds: int) -> None:
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((SIZE, SIZE, 3), 0.35, weights=None)
    samples = np.random.default_rng(0).uniform(-1, 1, (SAMPLES, SIZE, SIZE, 3))
    samples = samples.astype("float32")
    found = ways()
    times: dict[str, list[float]] = {name: [] for name in found}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):  # the first loads what the others find loaded
            for name, way in found.items():
                place = Path(folder) / f"{name}-{number}"
                place.mkdir()
                seconds = spent(lambda way=way, at=place: way(model, samples, at))
                times[name].append(seconds)
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds[1:], times["converter"][1:])]
        print(
            f"MobileNetV2 to an int8 file, {name}: {statistics.median(seconds[1:]):.1f}"
            f" s, {statistics.median(ratios):.2f}x of the converter's",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    # Untrained models have ranges that are told to be small.
    warnings.simplefilter("ignore", tfcompress.CompressionWarning)
    against_depth(arguments.depths)
    if arguments.rounds:
        beside_others(arguments.rounds)


if __name__ == "__main__":
    main()
