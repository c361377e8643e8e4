"""shrink on the families of keras.applications: half the MACs, and exact removal.

    python benchmarks/shrink_applications.py
    python benchmarks/shrink_applications.py --models MobileNetV2 --json figures.json

Each model is built at 96x96 with random weights, biases and running statistics, one at
a time. Two things are measured:

- `shrink(model, macs=0.5)`: the share of MACs that is left, whether the output shape is
  kept, whether a gradient step gives a finite loss and moves the weights, and whether
  the result exports to TFLite and SavedModel and computes the same there.
- Half of the channels of every group are set to zero with their biases and scales (not
  the weights that read them), and `shrink(model)` removes them: the largest difference
  of the outputs.
"""

import argparse
import gc
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np

from tfcompress.channels.dependencies import analyse
from tfcompress.channels.shrink import shrink
from tfcompress.exporters.export import export, load
from tfcompress.layers import macs

FAMILIES = (
    "VGG16",
    "ResNet50",
    "ResNet50V2",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "DenseNet121",
    "InceptionV3",
    "Xception",
    "NASNetMobile",
    "ConvNeXtTiny",
)


def application(name, size=96, **options):
    """Returns a model of keras.applications whose weights hide no mistake."""
    keras.backend.clear_session()
    gc.collect()
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classifier_activation=None,
        **options,
    )
    return randomized(model)


def randomized(model, seed=0):
    """Gives offsets and running statistics values; kernels are random already."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 2.0, shape))
        elif variable.name in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.1, shape))
    return model


def images_for(model, count=2):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(1).uniform(0, 1, shape).astype("float32")


def halve(model, folder):
    """Returns what came of `shrink(model, macs=0.5)`."""
    start = time.perf_counter()
    smaller = shrink(model, macs=0.5)
    seconds = time.perf_counter() - start
    images = images_for(model)
    outputs = keras.ops.convert_to_numpy(smaller(images, training=False))
    differences = {}
    for kind, path in (("tflite", "m.tflite"), ("saved_model", "m/1")):
        export(smaller, Path(folder) / path, format=kind)
        runner = load(Path(folder) / path)
        found = np.concatenate([np.asarray(runner(images[i : i + 1])) for i in (0, 1)])
        differences[kind] = float(np.abs(found - outputs).max())
    return {
        "macs": macs(model),
        "macs_share": macs(smaller) / macs(model),
        "weights_share": smaller.count_params() / model.count_params(),
        "output_shape_kept": smaller.output_shape == model.output_shape,
        "loss": gradient_step(smaller, images),
        "seconds": seconds,
        **differences,
    }


def gradient_step(model, images):
    """Trains one step and returns its loss; fails if the weights stay."""
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.compile(
        keras.optimizers.SGD(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,  # one step is not worth a compilation
    )
    loss = float(model.train_on_batch(images, np.arange(len(images))))
    moved = [np.any(a != b) for a, b in zip(before, model.trainable_variables)]
    if not any(moved):
        raise RuntimeError(f"a step moved no weight of {model.name}")
    return loss


def zeroed(model, share=0.5):
    """Sets `share` of the channels of every group to zero where they are made."""
    dependencies = analyse(model)
    rng = np.random.default_rng(2)
    gone = {
        int(member)
        for group in dependencies.groups
        # Zeros before a LayerNormalization count in its statistics and must stay.
        if not group.fixed and not dependencies.mixed.intersection(group.members)
        for member in rng.choice(
            group.members, int(group.channels * share), replace=False
        )
    }
    for site in dependencies.sites:
        if site.role != "input" and site.variable.trainable:
            shape = [1] * len(site.variable.shape)
            shape[site.axis] = -1
            kept = ~np.isin(dependencies.roots[site.ids], sorted(gone))
            site.variable.assign(site.variable * kept.reshape(shape))
    return len(gone)


def remove_zeros(model):
    """Returns how exactly `shrink(model)` removes zeroed channels."""
    count = zeroed(model)
    images = images_for(model)
    before = keras.ops.convert_to_numpy(model(images, training=False))
    smaller = shrink(model)
    after = keras.ops.convert_to_numpy(smaller(images, training=False))
    return {
        "zeroed": count,
        "removed_macs_share": macs(smaller) / macs(model),
        "difference": float(np.abs(after - before).max()),
        "largest_output": float(np.abs(before).max()),
    }


def measure(name, size=96):
    with tempfile.TemporaryDirectory() as folder:
        halved = halve(application(name, size), folder)
    return {**halved, **remove_zeros(application(name, size))}


def markdown(rows):
    lines = [
        "| model | MMACs | left of MACs | of weights | loss after a step "
        "| TFLite, SavedModel: largest difference | zeroed channels "
        "| left of MACs | largest difference | shrink, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if not row["output_shape_kept"]:
            raise RuntimeError(f"the output shape of {name} changed")
        lines.append(
            f"| {name} | {row['macs'] / 1e6:.0f} | {row['macs_share']:.1%} "
            f"| {row['weights_share']:.1%} | {row['loss']:.2f} "
            f"| {row['tflite']:.0e}, {row['saved_model']:.0e} | {row['zeroed']} "
            f"| {row['removed_macs_share']:.1%} | {row['difference']:.0e} "
            f"| {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--size", type=int, default=96, help="height and width")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    rows = {}
    for name in options.models:
        rows[name] = measure(name, options.size)
        print(f"{name}: {rows[name]}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2))
    print(markdown(rows))


if __name__ == "__main__":
    main()
