"""What distillation gains: every loss, several seeds, against the student alone.

    python benchmarks/distillation.py
    python benchmarks/distillation.py --seeds 1 --epochs 1 --train-size 2000
    python benchmarks/distillation.py --losses soft_labels decoupled --json gains.json

A teacher (a small ResNet) is trained once per seed; then a student with about a tenth
of its weights is trained alone and with each loss, from the same start, on the same
data in the same order for the same number of epochs. "keras" is
`keras.distillation.Distiller` with `LogitsDistillation`, once with its default loss
(which compares raw logits) and once with a `KLDivergence` instance. The teacher's
outputs are cached, so a run costs what training the student costs; a loss that needs
features takes them from the cache too.

Accuracy is that of the last epoch on the test images; no choice is made by it. A gain
within the spread of the seeds is reported as none.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfcompress.datasets import load_images
from tfcompress.distillation import losses as L
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.teacher_cache import cache_teacher

BATCH = 128
LAYERS = ("stage2", "pooled")


def resnet(widths, shape, classes, blocks=1):
    """A residual network; layers "stage2" and "pooled" are what features come from."""
    layers = keras.layers

    def convolution(x, filters, size=3, strides=1):
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

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
    return resnet((32, 64, 128), data.image_shape, data.num_classes, blocks=2)


def make_student(data):
    return resnet((16, 32, 64), data.image_shape, data.num_classes)


def soft():
    return L.SoftLabels(4.0)


# Features help next to soft labels, not instead of them, so that is how they run.
RUNS = {
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


def compiled(model, steps):
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Trial:
    """One seed: a teacher, its cached outputs, and every way to train the student."""

    def __init__(self, data, seed, options):
        self.data, self.seed, self.options = data, seed, options
        keras.utils.set_random_seed(seed)
        train = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
        self.train = train.batch(BATCH)
        self.steps = int(self.train.cardinality())
        self.teacher = compiled(make_teacher(data), self.steps * options.teacher_epochs)
        self.teacher.fit(
            self.shuffled(self.train), epochs=options.teacher_epochs, verbose=0
        )

    def shuffled(self, batches):
        # Samples, not batches: relations within a batch should not repeat.
        count = len(self.data.x_train)
        mixed = batches.unbatch().shuffle(count, seed=self.seed).batch(BATCH)
        return mixed.apply(tf.data.experimental.assert_cardinality(self.steps))

    def student(self):
        keras.utils.set_random_seed(self.seed)
        return make_student(self.data)

    def accuracy(self, model):
        x, y = self.data.x_test, self.data.y_test
        predicted = model.predict(x, batch_size=500, verbose=0).argmax(-1)
        return 100.0 * float((predicted == y).mean())

    def run(self, name, cached):
        """Returns the accuracy of the student trained in one way, and the seconds."""
        student = self.student()
        batches = self.train
        if name == "alone":
            learner = student
        elif name in KERAS:
            copy = keras.models.clone_model(self.teacher)
            copy.set_weights(self.teacher.get_weights())
            learner = keras.distillation.Distiller(copy, student, KERAS[name]())
        else:
            share = self.options.student_loss_weight
            learner = Distiller(self.teacher, student, RUNS[name](), None, share)
            batches = cached
        epochs = self.options.epochs
        begin = time.perf_counter()
        compiled(learner, self.steps * epochs)
        learner.fit(self.shuffled(batches), epochs=epochs, verbose=0)
        return self.accuracy(student), time.perf_counter() - begin


def measure(options, console):
    data = load_images(options.train_size)
    console.print(f"{data.name}: {len(data.x_train)} images")
    sizes = [make(data).count_params() for make in (make_teacher, make_student)]
    console.print(f"teacher {sizes[0]} weights, student {sizes[1]}")
    results = {"teacher": [], "alone": []}
    for seed in range(1, options.seeds + 1):
        trial = Trial(data, seed, options)
        results["teacher"].append(trial.accuracy(trial.teacher))
        with tempfile.TemporaryDirectory() as folder:
            cached = cache_teacher(trial.teacher, trial.train, folder, LAYERS)
            for name in ("alone", *KERAS, *options.losses):
                accuracy, seconds = trial.run(name, cached)
                results.setdefault(name, []).append(accuracy)
                console.print(f"seed {seed} {name}: {accuracy:.2f} % ({seconds:.0f} s)")
    return {"sizes": sizes, "accuracy": results}


def table_of(results):
    alone = results["alone"]
    table = Table("training", "accuracy %", "spread", "gain", "helps")
    for name, values in results.items():
        mean = statistics.mean(values)
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        gains = [ours - theirs for ours, theirs in zip(values, alone)]
        gain = statistics.mean(gains)
        noise = statistics.stdev(gains) if len(gains) > 1 else float("nan")
        helps = "" if name in ("teacher", "alone") else "yes" if gain > noise else "no"
        if len(values) == 1 and helps:
            helps = "one seed cannot tell"
        table.add_row(name, f"{mean:.2f}", f"{spread:.2f}", f"{gain:+.2f}", helps)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    parser.add_argument("--train-size", type=int, help="images; all by default")
    parser.add_argument("--student-loss-weight", type=float, default=0.3)
    parser.add_argument("--losses", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    console = Console()
    figures = measure(options, console)
    console.print(table_of(figures["accuracy"]))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
