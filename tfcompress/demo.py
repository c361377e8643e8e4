"""The demo: a real model made small in one fit, shipped twice, and checked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from tfcompress.compression.progress import each_minute
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.datasets import ImageData, load_images
from tfcompress.distillation.distiller import Distiller
from tfcompress.exporters import Artifact, export
from tfcompress.finalization import finalize
from tfcompress.pruning.callback import PruneWeights
from tfcompress.quantization.freeze import FreezeQuantization
from tfcompress.quantization.quantize import quantize_aware
from tfcompress.reporting import Report, report
from tfcompress.schedules import PolynomialSparsity
from tfcompress.verification import Verification, verify

RATE = 3e-3
SPARSITY = 0.85


@dataclasses.dataclass(frozen=True)
class _Length:
    """How long the demo trains: images, batch size and epochs of both models."""

    images: int | None
    batch: int
    teacher: int
    student: int


_FULL = _Length(images=None, batch=128, teacher=3, student=4)
# Few images in small batches: compression needs steps more than images.
_SMOKE = _Length(images=2000, batch=32, teacher=3, student=3)


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo made and measured.

    Attributes:
        data: name of the data set.
        phone: the int8 .tflite.
        server: the SavedModel.
        control: float .tflite of the same architecture, trained for as many epochs
            at the same learning rates, without compression.
        trained_agreement: the .tflite against the quantization-aware student that
            was trained, on the whole test set.
        phone_check: the .tflite against the finalized model.
        server_check: the SavedModel against the finalized model.
        report: sizes, sparsity, accuracy and latency side by side.
    """

    data: str
    phone: Artifact
    server: Artifact
    control: Artifact
    trained_agreement: Verification
    phone_check: Verification
    server_check: Verification
    report: Report

    def to_json(self) -> str:
        """Returns the figures as JSON."""
        return json.dumps(
            {
                "data": self.data,
                "trained_agreement": json.loads(self.trained_agreement.to_json()),
                "phone": json.loads(self.phone_check.to_json()),
                "server": json.loads(self.server_check.to_json()),
                "report": json.loads(self.report.to_json()),
            },
            indent=2,
        )


def build_teacher(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Returns a small residual network."""
    image = keras.Input(shape, name="image")
    x = image
    # Averages that a few hundred steps fill: with Keras' 0.99 a short training answers
    # with those it began with.
    norm = partial(layers.BatchNormalization, momentum=0.9)
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        skip = layers.Conv2D(width, 1, strides=stride, use_bias=False)(x)
        x = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
        x = norm()(x)
        x = layers.ReLU()(x)
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = norm()(x)
        x = layers.ReLU()(layers.Add()([x, skip]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name="teacher")


def build_student(
    shape: tuple[int, ...], classes: int, name: str = "student"
) -> keras.Model:
    """Returns LeNet-5 in the widths of Deep Compression (20-50-500-10)."""
    image = keras.Input(shape, name="image")
    x = layers.Conv2D(20, 5, activation="relu", name="conv1")(image)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(50, 5, activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, activation="relu", name="dense")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name=name)


def run(
    output: str | Path = "tfcompress-demo",
    smoke: bool = False,
    console: Console | None = None,
) -> DemoResult:
    """Trains, compresses, exports, verifies and reports.

    Args:
        output: directory for the artifacts, the report and the figures.
        smoke: the same with few images and epochs, in about a minute.
        console: where to print.

    Returns:
        What was made and measured.
    """
    console = console or Console()
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(
            f"The output directory cannot be made ({error.strerror}).",
            received=str(output),
            fix="choose another directory with --output",
        ) from error
    keras.utils.set_random_seed(1)
    length = _SMOKE if smoke else _FULL
    data = load_images(limit=length.images)
    console.print(f"Data: {data.name}, {len(data.x_train)} training images.")
    shape, classes = data.x_train.shape[1:], len(data.class_names)

    teacher = build_teacher(shape, classes)
    control = build_student(shape, classes, "control")
    student = build_student(shape, classes)
    begin = time.monotonic()
    with _Fits(data, length.batch, console) as fits:
        fits.fit(teacher, "teacher", length.teacher)
        fits.fit(control, "student, as one would train it", length.student)
        student.set_weights(control.get_weights())
        # The control goes on just as long as the student, so that what compression
        # costs or gains is not mixed up with what more epochs do.
        fits.fit(control, "control: on, dense, float", length.student)
        distiller = Distiller(
            teacher,
            quantize_aware(student, "w8a8"),
            keras.distillation.LogitsDistillation(temperature=3.0),
        )
        schedule = PolynomialSparsity(0.0, SPARSITY, end_step=0.5, frequency=20)
        prune = PruneWeights(schedule, scope="global")
        freeze = FreezeQuantization(ranges_at_epoch=length.student - 1)
        label = "student: on, distilled, pruned, int8"
        fits.fit(distiller, label, length.student, prune, freeze)
    seconds = time.monotonic() - begin

    deployable = finalize(distiller.student)
    with console.status("Exporting ..."):
        phone = export(deployable, folder / "student.tflite", overwrite=True)
        reference = export(control, folder / "control.tflite", overwrite=True)
        server = export(
            deployable, folder / "savedmodels" / "student", format="saved_model"
        )
    with console.status("Verifying on the whole test set ..."):
        trained = verify(
            phone, distiller.student, data.x_test, min_integer_coverage=1.0
        )
        phone_check = verify(phone, deployable, data.x_test, min_integer_coverage=1.0)
        server_check = verify(server, deployable, data.x_test)
    with console.status("Measuring ..."):
        table = report(
            control,
            reference,
            phone,
            server,
            evaluate=lambda predict: _accuracy(predict(data.x_test), data),
            latency_inputs=data.x_test[:1],
        )
    result = DemoResult(
        data=data.name,
        phone=phone,
        server=server,
        control=reference,
        trained_agreement=trained,
        phone_check=phone_check,
        server_check=server_check,
        report=table,
    )
    console.print(f"Trained student and .tflite: {trained}")
    console.print(f"Finalized model and .tflite: {phone_check}")
    console.print(f"Finalized model and SavedModel: {server_check}")
    console.print(table)
    (folder / "report.md").write_text(table.to_markdown() + "\n")
    (folder / "figures.json").write_text(result.to_json() + "\n")
    console.print(_summary(table))
    if smoke:
        console.print(
            f"All four were trained for {seconds:.0f} s together, too short for "
            "accuracies that mean anything: tfcompress demo trains them on all images."
        )
    console.print(f"Artifacts, report and figures are in {folder}")
    return result


def _summary(table: Report) -> str:
    """Returns in a sentence what was gained, and what it cost."""
    _, control, student, _ = table.rows
    assert student.metric is not None
    assert control.metric is not None
    change = 100 * (student.metric - control.metric)
    return (
        f"{student.name} takes {student.gzip_size:,} bytes to download where "
        f"{control.name} takes {control.gzip_size:,} "
        f"({control.gzip_size / student.gzip_size:.1f} times as much), and is "
        f"{abs(change):.1f} points {'more' if change >= 0 else 'less'} accurate."
    )


class _Fits:
    """Fits models on the same data and shows how far they are; in a log, by lines."""

    def __init__(self, data: ImageData, batch: int, console: Console):
        self._data, self._batch, self._console = data, batch, console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(
            *columns, console=console, disable=not console.is_terminal
        )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Fits:
        self._stack.enter_context(self._bars)
        if not self._console.is_terminal:
            self._stack.enter_context(each_minute(self._say))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def fit(
        self,
        model: keras.Model,
        label: str,
        epochs: int,
        *callbacks: keras.callbacks.Callback,
    ) -> None:
        """Trains one model with a rate that falls to zero."""
        steps = -(-len(self._data.x_train) // self._batch) * epochs
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        task = self._bars.add_task(label, total=steps)
        bar = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self._bars.advance(task)
        )
        if not self._console.is_terminal:
            self._console.print(f"{label}: {steps} steps")
        model.fit(
            self._data.x_train,
            self._data.y_train,
            batch_size=self._batch,
            epochs=epochs,
            verbose=0,
            callbacks=[*callbacks, bar],
        )

    def _say(self, seconds: float) -> None:
        for task in self._bars.tasks[-1:]:
            text = f"{task.description}: {task.completed:.0f} of {task.total:.0f} steps"
            self._console.print(f"{text} [{seconds:.0f} s]", highlight=False)


def _accuracy(logits: np.ndarray, data: ImageData) -> float:
    return float(np.mean(np.argmax(logits, axis=-1) == data.y_test))
