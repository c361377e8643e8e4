"""w8a8 on the families of keras.applications: does the file equal the graph?

    python benchmarks/quantize_applications.py --json figures.json
    python benchmarks/quantize_applications.py --models MobileNetV2 --layers

Each model is built at 96x96 (or the smallest size it takes) with random weights, biases
and running statistics: `quantize_aware`, one training step, `finalize`, `export`. Then
32 smooth random images go through the file and the finalized Keras model. Rows are
written as they come, and those that are in the JSON file already are not made again.
"""

import argparse
import gc
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from shrink_applications import randomized

import tfcompress
from tfcompress.verification import layer_differences

FAMILIES = (
    "VGG16",
    "ResNet50",
    "ResNet50V2",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "DenseNet121",
    "InceptionV3",
    "InceptionResNetV2",
    "Xception",
    "NASNetMobile",
    "ConvNeXtTiny",
)
# These begin with their own preprocessing, of pixels from 0 to 255.
_PIXELS = ("MobileNetV3", "EfficientNet", "ConvNeXt")


def application(name, size=96, **options):
    """Returns a model of keras.applications whose weights hide no mistake."""
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classifier_activation=None,
        **options,
    )
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "layer_scale" in variable.path:  # begins with 1e-6, which hides its branch
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return randomized(model)


def smooth_images(model, count=32, seed=1):
    """Returns images of a few random waves: neighbours alike, no two images alike."""
    rng = np.random.default_rng(seed)
    height, width, channels = model.input_shape[1:]
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    images = np.zeros((count, height, width, channels))
    for _ in range(6):
        waves = rng.uniform(0.5, 6.0, (2, count, 1, 1, channels))
        phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, channels))
        strength = rng.uniform(0, 1, (count, 1, 1, channels))
        angle = waves[0] * x[None, :, :, None] + waves[1] * y[None, :, :, None]
        images += strength * np.sin(2 * np.pi * angle + phase)
    images /= np.abs(images).max(axis=(1, 2, 3), keepdims=True)
    pixels = any(part in model.name.lower() for part in map(str.lower, _PIXELS))
    return (images * 127.5 + 127.5 if pixels else images).astype("float32")


def quantized(model, images):
    """Returns the model after quantization-aware training of one step, finalized."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tfcompress.CompressionWarning)
        aware = tfcompress.quantize_aware(model)
    aware.compile(
        keras.optimizers.SGD(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,  # one step is not worth a compilation
    )
    # Of random networks the running statistics are not those of the batch: with these,
    # ranges are learned of values that inference never sees.
    norms = any(isinstance(x, keras.layers.BatchNormalization) for x in aware.layers)
    freeze = tfcompress.FreezeQuantization(batch_norm_at_epoch=0 if norms else None)
    labels = np.arange(8) % model.output_shape[-1]
    aware.fit(images[:8], labels, batch_size=8, verbose=0, callbacks=[freeze])
    return tfcompress.finalize(aware)


def measure(model, path, layers=False):
    """Returns the row of one model."""
    start = time.perf_counter()
    images = smooth_images(model)
    final = quantized(model, images)
    file = tfcompress.export(final, path)
    result = tfcompress.verify(file, final, images, min_integer_coverage=1.0)
    row = {
        "coverage": file.integer_coverage,
        "max_steps": result.max_error_steps,
        "agreement": result.agreement,
        "size": file.size,
        "float_operators": {
            f"{o.name} {o.activations}": o.count
            for o in file.operators
            if "float32" in o.activations and o.name not in ("QUANTIZE", "DEQUANTIZE")
        },
        "seconds": time.perf_counter() - start,
    }
    if layers:
        for difference in layer_differences(file, final, images):
            print("   ", difference)
    return row


def smallest(name, size):
    """Returns the size of input to use: some families take no small images."""
    least = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
    return max(size, least.get(name, 32))


def markdown(rows):
    lines = [
        "| model | integer coverage | largest difference, steps | same top-1 "
        "| file, MB |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['coverage']:.1%} | {row['max_steps']:.2f} "
            f"| {row['agreement']:.1%} | {row['size'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--size", type=int, default=96, help="height and width")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--layers", action="store_true", help="print every layer's")
    options = parser.parse_args()
    rows = {}
    if options.json and options.json.exists():
        rows = json.loads(options.json.read_text())
    for name in options.models:
        if name in rows:
            continue
        keras.backend.clear_session()
        gc.collect()
        with tempfile.TemporaryDirectory() as folder:
            model = application(name, smallest(name, options.size))
            rows[name] = measure(model, Path(folder) / "m.tflite", options.layers)
        print(f"{name}: {rows[name]}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2))
    print(markdown(rows))


if __name__ == "__main__":
    main()
