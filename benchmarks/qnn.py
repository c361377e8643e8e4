"""Does Qualcomm's NPU take the models whole, and does it compute what they compute?

    python benchmarks/qnn.py
    python benchmarks/qnn.py --h5 pretrainedResnet.h5 --data cifar10_subset.npz

Each model is calibrated on random samples, finalized and compiled (the processor may
take nothing), and runs in Qualcomm's own x86 library on samples that calibration has
not seen. A row says how many operators the NPU has, how many of the finalized model's
output steps the program is off at most, which share of the values is off at all, and
how often both name the same class. Beside it is the same ONNX file on the processor, in
ONNX Runtime: what is lost by leaving it. With `--fast` sums are computed in 8 bits.

With `--h5` and `--data` they are models of one's own: the file has images `x_train` and
`x_test`, which are resized to the model's inputs and divided by `--divisor`.
"""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from runtimes import MODELS, samples_for

import tfcompress
from tests.exporters import same_models
from tfcompress.exporters import KerasRunner


def one_layer(layer, *shape):
    """Returns what makes a model of one layer."""

    def build():
        inputs = keras.Input(shape, name="x")
        return keras.Model(inputs, layer()(inputs))

    return build


ALONE = {
    "one convolution": one_layer(lambda: keras.layers.Conv2D(16, 3), 16, 16, 8),
    "one dense layer": one_layer(lambda: keras.layers.Dense(16), 64),
}
SMALL = {name: same_models.BUILDERS[name] for name in same_models.NAMES}
LARGER = {**ALONE, **{name: MODELS[name] for name in ("gru", "vit")}}


def of_small(name, count):
    """Returns a model of the targets' tests, with its samples."""
    keras.utils.set_random_seed(same_models.NAMES.index(name) + 1)
    model, rng = SMALL[name](), np.random.default_rng(0)
    drawn = [
        {
            tensor.name: rng.normal(size=(size, *tensor.shape[1:])).astype("float32")
            for tensor in model.inputs
        }
        for size in (same_models.SAMPLES, count)
    ]
    return model, *drawn


def of_larger(name, count):
    """Returns a model of `runtimes.py`, with its samples."""
    keras.utils.set_random_seed(0)
    model = LARGER[name]()
    return model, samples_for(model, 64, 1), samples_for(model, count, 2)


class OldDepthwise(keras.layers.DepthwiseConv2D):
    """That of Keras 2, whose files have an argument that is no more."""

    def __init__(self, *arguments, groups=1, **options):
        super().__init__(*arguments, **options)


def of_file(path, data, divisor, count):
    """Returns a model of one's own, with its images."""
    classes = {"DepthwiseConv2D": OldDepthwise}
    model = keras.models.load_model(path, compile=False, custom_objects=classes)
    height, width = model.input_shape[1:3]
    images = []
    for name, size in (("x_train", 256), ("x_test", count)):
        raw = np.load(data)[name][:size].astype("float32") / divisor
        images.append(np.asarray(keras.ops.image.resize(raw, (height, width))))
    return model, *images


def off(file, final, samples):
    """Returns the most steps, the share of values and that of equal classes."""
    got = tfcompress.load(file.path).run(samples)
    expected = KerasRunner(final).run(samples)
    most, wrong, same = 0.0, [], []
    for output in file.outputs:
        steps = np.abs(got[output.name] - expected[output.name]) / output.step
        most = max(most, float(steps.max()))
        wrong.append(np.mean(steps > 0.5))
        classes = [one[output.name].argmax(-1) for one in (got, expected)]
        same.append(np.mean(classes[0] == classes[1]))
    return most, float(np.mean(wrong)), float(np.mean(same))


def row(name, made, soc, scheme, exact):
    """Prints the row of one model."""
    model, calibrating, samples = made
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", tfcompress.CompressionWarning)
        final = tfcompress.finalize(tfcompress.calibrate(model, calibrating, scheme))
        here = Path(folder)
        try:
            program = tfcompress.export(
                final, here / "npu", "qnn", soc=soc, check="off", exact_sums=exact
            )
        except tfcompress.ExportError as error:
            print(f"| {name} | {error} |", flush=True)
            return
        most, wrong, same = off(program, final, samples)
        cells = [sum(op.count for op in program.operators), f"{most:.2f}"]
        cells += [f"{wrong:.2%}", f"{same:.2%}"]
        if scheme == "w8a8":
            plain = tfcompress.export(
                final, here / "m.onnx", format="onnx", check="off", batch_size=1
            )
            most, wrong, same = off(plain, final, samples)
            cells += [f"{most:.2f}", f"{same:.2%}"]
    print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=[*ALONE, *SMALL, "gru", "vit"])
    parser.add_argument("--h5", nargs="*", default=[], help="models of one's own")
    parser.add_argument("--data", help="an .npz file of their images")
    parser.add_argument("--divisor", type=float, default=1.0, help="of the images")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--soc", default="sm8750")
    parser.add_argument("--scheme", default="w8a8", choices=("w8a8", "w8a16"))
    parser.add_argument("--fast", action="store_true", help="sums in 8 bits")
    options = parser.parse_args()
    exact = not options.fast
    print("| model | operators, all on the NPU | most steps off | values off ", end="")
    print("| same class | ONNX Runtime: steps off | same class |")
    print("|---|---|---|---|---|---|---|")
    count = options.samples
    for name in options.models if not options.h5 else ():
        made = of_small(name, count) if name in SMALL else of_larger(name, count)
        row(name, made, options.soc, options.scheme, exact)
    for path in options.h5:
        made = of_file(path, options.data, options.divisor, count)
        row(Path(path).stem, made, options.soc, options.scheme, exact)


if __name__ == "__main__":
    main()
