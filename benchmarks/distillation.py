"""What distillation gains: every loss, several seeds, against the student alone.

    python benchmarks/distillation.py
    python benchmarks/distillation.py --seeds 1 --epochs 1 --train-size 500
    python benchmarks/distillation.py --rows alone soft_labels --json gains.json

A teacher (a small ResNet) is trained on all images. Its students, with about a tenth
of its weights, get a few of them only, which is where a teacher has something to add:
trained alone they overfit. Per seed they are trained alone and with each loss, from the
same start, on the same images in the same order, for the same number of epochs. "keras"
is `keras.distillation.Distiller` with `LogitsDistillation`, once with its default loss
(which compares raw logits) and once with a `KLDivergence` instance. The teacher's
outputs are cached, so a run costs what training the student costs; a loss that needs
features takes them from the cache too. With `--json` every run, and the teacher, is
written at once and not repeated when it is found there.

Accuracy is that of the last epoch on all test images; no choice is made by it. A gain
is the mean over the seeds of the difference to the student alone with the same seed,
and counts as help if it is larger than twice its standard error.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfcompress.datasets import load_images
from tfcompress.distillation import deep_supervision
from tfcompress.distillation import losses as L
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.teachers.cache import cache_teacher

BATCH, RATE = 128, 2e-3
LAYERS = ("stage2", "pooled")


def resnet(widths, shape, classes, blocks=1):
    """A residual network; layers "stage2" and "pooled" are what features come from."""
    layers = keras.layers

    def convolution(x, filters, size=3, strides=1):
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False)(x)
        # With Keras' 0.99 a fit of some hundred steps ends with statistics from its
        # beginning, and the teacher answers far below what it has learned.
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input(shape)
    x = layers.ReLU()(convolution(inputs, widths[0], strides=2))
    for stage, filters in enumerate(widths, 1):
        for block in range(blocks):
            strides = 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if strides > 1 or x.shape[-1] != filters:
                shortcut = convolution(x, filters, size=1, strides=strides)
            y = layers.ReLU()(convolution(x, filters, strides=strides))
            y = layers.Add()([convolution(y, filters), shortcut])
            last = block == blocks - 1
            x = layers.ReLU(name=f"stage{stage}" if last else None)(y)
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


def make_teacher(data):
    return resnet((16, 32, 64), data.image_shape, data.num_classes, blocks=2)


def make_student(data):
    return resnet((8, 16, 32), data.image_shape, data.num_classes)


def soft():
    return L.SoftLabels(4.0)


# Features help next to soft labels, not instead of them, so that is how they run.
LOSSES = {
    "soft_labels": lambda: [soft()],
    "hard_labels": lambda: [L.HardLabels()],
    "decoupled": lambda: [L.DecoupledKnowledge()],
    "logits_mse": lambda: [L.LogitsMSE(center=True)],
    "hint": lambda: [soft(), L.Hint("stage2", "stage2")],
    "attention_transfer": lambda: [soft(), L.AttentionTransfer("stage2", "stage2")],
    "similarity": lambda: [soft(), L.SimilarityPreserving("pooled", "pooled")],
    "relational_distance": lambda: [soft(), L.RelationalDistance("pooled", "pooled")],
    "relational_angle": lambda: [soft(), L.RelationalAngle("pooled", "pooled")],
    "contrastive": lambda: [soft(), L.Contrastive("pooled", "pooled")],
    "cosine": lambda: [soft(), L.CosineDistance("pooled", "pooled")],
}
KERAS = {
    "keras, default": lambda: keras.distillation.LogitsDistillation(4.0),
    "keras, KLDivergence": lambda: keras.distillation.LogitsDistillation(
        4.0, keras.losses.KLDivergence()
    ),
}
ROWS = ("teacher", "alone", *KERAS, *LOSSES, "deep_supervision")


def compiled(model, steps):
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def trained_teacher(data, options):
    """Returns the teacher, trained on all images, or as an earlier call left it."""
    keras.utils.set_random_seed(1)
    teacher = make_teacher(data)
    steps = math.ceil(len(data.x_train) / BATCH) * options.teacher_epochs
    kept = options.json and options.json.with_suffix(".teacher.weights.h5")
    if kept and kept.exists():
        teacher.load_weights(kept)
        return teacher
    compiled(teacher, steps).fit(
        data.x_train,
        data.y_train,
        batch_size=BATCH,
        epochs=options.teacher_epochs,
        verbose=0,
    )
    if kept:
        teacher.save_weights(kept)
    return teacher


class Trial:
    """One seed: its images, the teacher's outputs, and every way to train a student."""

    def __init__(self, teacher, data, seed, options, folder):
        chosen = np.random.default_rng(seed).permutation(len(data.x_train))
        chosen = chosen[: options.train_size or None]
        self.data = dataclasses.replace(
            data, x_train=data.x_train[chosen], y_train=data.y_train[chosen]
        )
        self.seed, self.options, self.teacher = seed, options, teacher
        train = tf.data.Dataset.from_tensor_slices(
            (self.data.x_train, self.data.y_train)
        )
        self.train = train.batch(BATCH)
        self.steps = int(self.train.cardinality())
        self.cached = cache_teacher(self.teacher, self.train, folder, LAYERS)

    def fit(self, model, batches, epochs):
        compiled(model, self.steps * epochs)
        # Samples, not batches: relations within a batch should not repeat.
        mixed = batches.unbatch().shuffle(len(self.data.x_train), seed=self.seed)
        mixed = mixed.batch(BATCH).prefetch(2)
        mixed = mixed.apply(tf.data.experimental.assert_cardinality(self.steps))
        model.fit(mixed, epochs=epochs, verbose=0, shuffle=False)

    def accuracy(self, model):
        x, y = self.data.x_test, self.data.y_test
        predicted = model.predict(x, batch_size=500, verbose=0).argmax(-1)
        return 100.0 * float((predicted == y).mean())

    def run(self, row):
        """Returns the accuracy of the student trained in one way."""
        if row == "teacher":
            return self.accuracy(self.teacher)
        keras.utils.set_random_seed(self.seed)
        student = make_student(self.data)
        learner, batches = student, self.train
        if row in KERAS:
            copy = keras.models.clone_model(self.teacher)
            copy.set_weights(self.teacher.get_weights())
            share = self.options.student_loss_weight
            learner = keras.distillation.Distiller(
                copy, student, KERAS[row](), student_loss_weight=share
            )
        elif row in LOSSES:
            share = self.options.student_loss_weight
            learner = Distiller(self.teacher, student, LOSSES[row](), None, share)
            batches = self.cached
        elif row == "deep_supervision":
            learner = deep_supervision(student, ["stage1", "stage2"])
        self.fit(learner, batches, self.options.epochs)
        return self.accuracy(student)


def read_results(path):
    """Returns the runs that an earlier, perhaps broken, call wrote to `--json`."""
    if path is None or not path.exists():
        return []
    return json.loads(path.read_text(encoding="utf-8"))


def measure(options, console):
    data = load_images()
    size = min(options.train_size or len(data.x_train), len(data.x_train))
    teacher, student = (m(data).count_params() for m in (make_teacher, make_student))
    console.print(
        f"{data.name}: {size} of {len(data.x_train)} images for students; teacher "
        f"{teacher} weights, student {student}, 1:{teacher / student:.1f}"
    )
    setting = {
        "train_size": size,
        "epochs": options.epochs,
        "teacher_epochs": options.teacher_epochs,
        "student_loss_weight": options.student_loss_weight,
    }
    results = read_results(options.json)
    model = None
    for seed in range(1, options.seeds + 1):
        done = {r["row"] for r in results if {**r, **setting, "seed": seed} == r}
        missing = [row for row in options.rows if row not in done]
        if not missing:
            continue
        model = model or trained_teacher(data, options)
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(model, data, seed, options, folder)
            for row in missing:
                began = time.process_time()
                accuracy = trial.run(row)
                seconds = time.process_time() - began
                console.print(
                    f"seed {seed} {row}: {accuracy:.2f} % ({seconds:.0f} s of CPU)"
                )
                results.append(
                    {**setting, "seed": seed, "row": row, "accuracy": accuracy}
                )
                if options.json:
                    text = json.dumps(results, indent=1)
                    options.json.write_text(text, encoding="utf-8")
    return [r for r in results if {**r, **setting} == r and r["row"] in options.rows]


def table_of(results):
    by_row = {}
    for r in results:
        by_row.setdefault(r["row"], {})[r["seed"]] = r["accuracy"]
    alone = by_row["alone"]
    table = Table("training", "accuracy %", "spread", "gain", "helps")
    for row, values in by_row.items():
        gains = [values[seed] - alone[seed] for seed in values if seed in alone]
        spread, noise = (
            statistics.stdev(v) if len(v) > 1 else math.nan
            for v in (list(values.values()), gains)
        )
        gain, error = statistics.mean(gains), noise / math.sqrt(len(gains))
        helps = "yes" if gain > 2 * error else "no"
        if len(gains) == 1:
            helps = "one seed cannot tell"
        if row in ("teacher", "alone"):
            helps = ""
        mean = statistics.mean(values.values())
        table.add_row(
            row, f"{mean:.2f}", f"{spread:.2f}", f"{gain:+.2f} ± {error:.2f}", helps
        )
    return table


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--teacher-epochs", type=int, default=6)
    parser.add_argument("--train-size", type=int, default=2000, help="0: all")
    parser.add_argument("--student-loss-weight", type=float, default=0.1)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument(
        "--json", type=Path, help="write every run here; those found are not repeated"
    )
    options = parser.parse_args(argv)
    options.rows = list(dict.fromkeys(["teacher", "alone", *options.rows]))
    console = Console(width=100)
    console.print(table_of(measure(options, console)))


if __name__ == "__main__":
    main()
