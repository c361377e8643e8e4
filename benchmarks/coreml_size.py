"""How large is a .mlpackage that keeps what was trained, beside coremltools' own?

    python benchmarks/coreml_size.py

A small CNN is written in four forms: float, int8 (kernels and ranges), 16 shared values
in each kernel, and 75 % zeros. Beside each stands what coremltools makes of the float
package by its own post-training compression (`coremltools.optimize.coreml`): linear
int8 weights, 4-bit palettes by k-means, and magnitude pruning. Sizes are those of all
files of the package, without tfcompress' manifest.

The columns between say how many weights of our kernels are others than the model's own
when coremltools decompresses them, and by how much at most, as a share of the kernel's
largest weight. Nothing is trained and nothing run here, so it says nothing of accuracy
or speed. coremltools' int8 is of weights alone; ours has the ranges of activations too.
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
from keras import layers

import tfcompress
from tfcompress.exporters.coreml.exporter import decompressed

IMAGE = (32, 32, 3)


def convolutional():
    """Returns a CNN of 128,842 parameters with random weights."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(IMAGE, name="image"),
            layers.Conv2D(32, 3, activation="relu", name="first"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(64, 3, activation="relu", name="second"),
            layers.MaxPooling2D(name="pool_again"),
            layers.Conv2D(128, 3, activation="relu", name="third"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(256, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ]
    )


def changed(model, change):
    """Returns a copy of a model with other kernels."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        if getattr(layer, "kernel", None) is not None:
            layer.kernel.assign(change(np.asarray(layer.kernel)))
    return copy


def sharing(kernel, count=16):
    """Returns a kernel of `count` values: the quantiles that its weights are near."""
    values = np.quantile(kernel, (np.arange(count) + 0.5) / count).astype("float32")
    return values[np.abs(kernel[..., None] - values).argmin(-1)]


def pruned(kernel, share=0.75):
    """Returns a kernel without its smallest weights."""
    return np.where(np.abs(kernel) < np.quantile(np.abs(kernel), share), 0, kernel)


def size(package):
    """Returns the bytes of a package."""
    files = (file for file in Path(package).rglob("*") if file.is_file())
    return sum(f.stat().st_size for f in files if "tfcompress" not in f.parts)


def theirs(package, folder):
    """Yields what coremltools makes of the float package, by name."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    model = ct.models.MLModel(str(package), skip_model_load=True)
    compressions = {
        "int8": (
            cto.linear_quantize_weights,
            cto.OpLinearQuantizerConfig(weight_threshold=0),
        ),
        "16 shared values": (
            cto.palettize_weights,
            cto.OpPalettizerConfig(nbits=4, weight_threshold=0),
        ),
        "75 % zeros": (
            cto.prune_weights,
            cto.OpMagnitudePrunerConfig(target_sparsity=0.75, weight_threshold=0),
        ),
    }
    for name, (compress, config) in compressions.items():
        target = folder / f"theirs_{len(name)}.mlpackage"
        compress(model, cto.OptimizationConfig(global_config=config)).save(str(target))
        yield name, target


def differences(package, model):
    """Returns how many weights are others than the model's, and how far at most."""
    found, far, many = decompressed(tfcompress.Artifact.read(package)), 0.0, 0
    for layer in model.layers:
        if getattr(layer, "kernel", None) is None:
            continue
        kernel = np.asarray(layer.kernel)
        axes = [(3, 2, 0, 1)] if kernel.ndim == 4 else [(1, 0), (0, 1)]
        forms = [kernel.transpose(one) for one in axes]
        # Codes of the same shape are integers; a weight is a float.
        candidates = [
            (weight, form)
            for weight in found.values()
            for form in forms
            if weight.shape == form.shape and weight.dtype == np.float32
        ]
        weight, form = min(candidates, key=lambda pair: np.abs(pair[0] - pair[1]).sum())
        many += int((weight != form).sum())
        far = max(far, float(np.abs(weight - form).max() / np.abs(form).max()))
    return many, far


def main():
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    warnings.simplefilter("ignore")
    model = convolutional()
    data = np.random.default_rng(0).normal(size=(64, *IMAGE)).astype("float32")
    forms = {
        "float": model,
        "int8": tfcompress.finalize(tfcompress.calibrate(model, data)),
        "16 shared values": changed(model, sharing),
        "75 % zeros": changed(model, pruned),
    }
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, (form, final) in enumerate(forms.items()):
            path = folder / f"ours_{place}.mlpackage"
            artifact = tfcompress.export(final, path, format="coreml")
            rows[form] = [size(artifact.path), *differences(path, final)]
        for form, path in theirs(folder / "ours_0.mlpackage", folder):
            rows[form].append(size(path))
        print(
            "| model | ours, bytes | other weights | by at most | coremltools, bytes |"
        )
        print("|---|---|---|---|---|")
        for form, (mine, many, far, *other) in rows.items():
            beside = f"{other[0]:,}" if other else "-"
            print(f"| {form} | {mine:,} | {many:,} | {far:.1e} | {beside} |")
    print(f"parameters: {model.count_params():,}")


if __name__ == "__main__":
    main()
