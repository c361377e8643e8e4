"""Accuracy of quantized models on Fashion-MNIST, in their .tflite files, and TFMOT's.

    python benchmarks/quantize_accuracy.py --limit 20000 --json figures.json
    python benchmarks/quantize_accuracy.py --models small-resnet --seeds 0 --no-tfmot

A float model is trained with a cosine rate. Then every row trains its copy for the same
further epochs, from a tenth of that rate: `float` as it is (the control), `w8a8` and
`w4a8` quantization-aware. `calibrate` rows quantize the control without training, from
500 training images; `both w4a8` is calibrated first and trained then. `tfmot float` and
`tfmot w8a8` are the same on tf_keras with TFMOT's quantize_model, in a process of their
own. Accuracies are those of the exported .tflite file, in LiteRT, on all 10 000 test
images.
"""

import math
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from _jobs import (
    BATCH,
    add_tfmot_options,
    answer_jobs,
    images,
    options,
    run_jobs,
    spread,
    tfmot_child,
)
from _models import MODELS
from rich.console import Console
from rich.table import Table

ROWS = ("float", "w8a8", "w4a8", "calibrate w8a8", "calibrate w4a8", "both w4a8")
TFMOT_ROWS = ("tfmot float", "tfmot w8a8")
RATE = 2e-3
CALIBRATION_IMAGES = 500


def fit(keras, model, train, epochs, rate, callbacks=()):
    steps = epochs * math.ceil(len(train[0]) / BATCH)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(decay), loss)
    arguments = {"batch_size": BATCH, "epochs": epochs, "verbose": 0}
    model.fit(*train, callbacks=list(callbacks), **arguments)
    return model


class Starts:
    """Trained float models, each made once; all rows of a seed start from one."""

    def __init__(self, keras, train):
        self.keras, self.train = keras, train
        self.weights = {}

    def model(self, job, stages):
        """Returns the model after the first stage of training, or after both."""
        key = job["model"], job["seed"], stages
        self.keras.utils.set_random_seed(job["seed"])
        if key not in self.weights:
            if stages == 1:
                model = MODELS[job["model"]](self.keras)
                fit(self.keras, model, self.train, job["epochs"], RATE)
            else:
                model = self.model(job, 1)
                fit(self.keras, model, self.train, job["more"], RATE / 10)
            self.weights[key] = model.get_weights()
        model = MODELS[job["model"]](self.keras)
        model.set_weights(self.weights[key])
        return model


def accuracy(content, test):
    """Returns the share of test images that a .tflite file gets right, in per cent."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    right = 0
    for image, label in zip(*test, strict=True):
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        right += int(np.argmax(interpreter.get_tensor(target)) == label)
    return 100 * right / len(test[1])


def run_ours(job, starts, test):
    import tfcompress

    method, _, scheme = job["row"].rpartition(" ")
    if job["row"] == "float":
        model = starts.model(job, 2)
    elif method == "calibrate":
        data = starts.train[0][:CALIBRATION_IMAGES]
        model = tfcompress.calibrate(starts.model(job, 2), data, scheme)
    else:
        if method:  # both: trained on from where calibration leaves it
            data = starts.train[0][:CALIBRATION_IMAGES]
            model = tfcompress.calibrate(starts.model(job, 1), data, scheme)
        else:
            model = tfcompress.quantize_aware(starts.model(job, 1), scheme)
        last = max(job["more"] - 1, 1)
        # Calibration folds BatchNormalization: there is none left to freeze.
        freeze = tfcompress.FreezeQuantization(
            last, batch_norm_at_epoch=None if method else last
        )
        fit(starts.keras, model, starts.train, job["more"], RATE / 10, [freeze])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        artifact = tfcompress.export(tfcompress.finalize(model), file)
        return {
            "accuracy": accuracy(file.read_bytes(), test),
            "integer_coverage": artifact.integer_coverage,
            "gzip": artifact.gzip_size,
        }


def run_tfmot(job, starts, test):
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot

    if job["row"] == "tfmot float":
        model = starts.model(job, 2)
    else:
        model = tfmot.quantization.keras.quantize_model(starts.model(job, 1))
        fit(starts.keras, model, starts.train, job["more"], RATE / 10)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if job["row"] != "tfmot float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return {"accuracy": accuracy(converter.convert(), test)}


def tables(results):
    """Yields a table per model: mean over the seeds, and distance to the control."""
    for model in dict.fromkeys(r["model"] for r in results):
        own = [r for r in results if r["model"] == model]

        def values(row, own=own):
            return {r["seed"]: r["accuracy"] for r in own if r["row"] == row}

        title = f"{model}, {own[0]['epochs']} + {own[0]['more']} epochs"
        table = Table("row", "accuracy, %", "against its float, points", title=title)
        for row in dict.fromkeys(r["row"] for r in own):
            found = values(row)
            control = values("tfmot float" if row.startswith("tfmot") else "float")
            gaps = [found[seed] - control[seed] for seed in found if seed in control]
            table.add_row(row, spread(list(found.values())), spread(gaps, "+"))
        yield table


def main(argv=None):
    parser = options(__doc__)
    known = ["small-resnet", "small-mobilenet"]
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=known)
    parser.add_argument("--epochs", type=int, default=8, help="of the float start")
    parser.add_argument("--more", type=int, default=4, help="epochs of every row")
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=ROWS)
    add_tfmot_options(parser)
    arguments = parser.parse_args(argv)
    data = images(arguments.limit)
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    if arguments.tfmot_child:
        import tf_keras

        starts = Starts(tf_keras, train)
        answer_jobs(lambda job: run_tfmot(job, starts, test))
        return None
    import keras

    starts, ask = Starts(keras, train), tfmot_child(__file__, arguments)
    jobs = [
        {
            "model": model,
            "seed": seed,
            "row": row,
            "epochs": arguments.epochs,
            "more": arguments.more,
            "limit": arguments.limit,
        }
        for model in arguments.models
        for seed in arguments.seeds
        for row in (*arguments.rows, *(() if arguments.no_tfmot else TFMOT_ROWS))
    ]

    def run(job):
        if job["row"] in TFMOT_ROWS:
            return ask(job)
        return run_ours(job, starts, test)

    results = run_jobs(jobs, run, arguments.json)
    for table in tables(results):
        Console(width=100).print(table)
    return results


if __name__ == "__main__":
    main()
