"""The demo's run: what is trained, exported, verified and shown."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tfcompress.compression.progress import each_minute
from tfcompress.core.errors import CompressionError, InvalidArgumentError
from tfcompress.datasets import ImageData, load_images
from tfcompress.demo.models import build_student, build_teacher, set_trained_weights
from tfcompress.distillation.distiller import Distiller
from tfcompress.exporters import Artifact, export
from tfcompress.finalization import finalize
from tfcompress.pruning.callback import PruneWeights
from tfcompress.quantization.freeze import FreezeQuantization
from tfcompress.quantization.quantize import quantize_aware
from tfcompress.reporting import Report, report
from tfcompress.schedules import PolynomialSparsity
from tfcompress.verification import Verification, verify

# The rate at which all models are trained, so that control and student move alike.
RATE = 3e-3
SPARSITY = 0.85
# What takes how long, as images that the control is trained on; for the time left.
_DISTILLED = 2
_EXPORTING, _VERIFYING, _MEASURING = 40_000, 60_000, 20_000


@dataclasses.dataclass(frozen=True)
class _Length:
    """How long a model is trained.

    Attributes:
        least_steps: fewer are too few for what is learned, however few the images are.
        batch: images of a step.
        images: images of an epoch, if there are so many.
    """

    least_steps: int
    batch: int
    images: int

    def epochs(self, images: int) -> int:
        """Returns the epochs for data of so many images."""
        return -(-self.least_steps // self.steps_of_an_epoch(images))

    def steps_of_an_epoch(self, images: int) -> int:
        """Returns the steps of one epoch."""
        return -(-min(self.images, images) // self.batch)


_FULL = _Length(least_steps=400, batch=128, images=30_000)
# Compression needs steps more than images: small batches where these are few.
_FEW_IMAGES = _Length(least_steps=400, batch=32, images=30_000)
_SMOKE = _Length(least_steps=120, batch=32, images=2_000)
# Of the models that do not come along: those for small images.
_FROM_THE_START = _Length(least_steps=450, batch=32, images=2_000)


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
    data = load_images(_SMOKE.images if smoke else None)
    whole = _FULL if len(data.x_train) >= _FULL.images else _FEW_IMAGES
    work = _Work(data, _SMOKE if smoke else whole, console)
    with work:
        control, distiller = _trained(work)
        deployable = finalize(distiller.student)
        with work.doing("Exporting", _EXPORTING):
            phone = export(deployable, folder / "student.tflite", overwrite=True)
            reference = export(control, folder / "control.tflite", overwrite=True)
            path = folder / "savedmodels" / "student"
            server = export(deployable, path, format="saved_model")
        with work.doing("Verifying on the whole test set", _VERIFYING):
            x = data.x_test
            trained = verify(phone, distiller.student, x, min_integer_coverage=1.0)
            phone_check = verify(phone, deployable, x, min_integer_coverage=1.0)
            server_check = verify(server, deployable, x)
        with work.doing("Measuring", _MEASURING):
            table = report(
                control,
                reference,
                phone,
                server,
                evaluate=lambda predict: _accuracy(predict(x), data),
                latency_inputs=x[:1],
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
            "Control and student went on for few steps, too short for a difference of "
            "a few points to mean anything; without --smoke it is more than twice as "
            "many."
        )
    console.print(_next(folder, table), soft_wrap=True, highlight=False)
    return result


def _trained(work: _Work) -> tuple[keras.Model, Distiller]:
    """Returns the control, and the student in its distiller, both trained on."""
    data, length = work.data, work.length
    shape, classes = data.image_shape, data.num_classes
    teacher, student = build_teacher(shape, classes), build_student(shape, classes)
    for model in (teacher, student):
        if work.comes_trained:
            set_trained_weights(model)
        else:
            work.fit(model, f"{model.name}: trained", _FROM_THE_START)
    control = build_student(shape, classes, "control")
    control.set_weights(student.get_weights())
    # The control goes on just as long as the student, so that what compression costs
    # or gains is not mixed up with what more epochs do.
    work.fit(control, "control: goes on, dense, float", length)
    distiller = Distiller(
        teacher,
        quantize_aware(student, "w8a8"),
        keras.distillation.LogitsDistillation(temperature=3.0),
    )
    schedule = PolynomialSparsity(0.0, SPARSITY, end_step=0.6)
    prune = PruneWeights(schedule, "lamp", scope="global")
    freeze = FreezeQuantization(ranges_at_epoch=length.epochs(len(data.x_train)) - 1)
    label = "student: distilled, pruned and quantized in one fit"
    work.fit(distiller, label, length, prune, freeze, cost=_DISTILLED)
    return control, distiller


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


def _next(folder: Path, table: Report) -> str:
    """Writes the page, and returns where all of it is and what to do next."""
    try:
        page = f"The report is {table.to_html(folder / 'report.html')}; artifacts"
    except CompressionError:  # the page needs packages that are an extra
        page = f"The report is {folder / 'report.md'}; artifacts"
    return (
        f"{page} and figures are beside it.\n"
        "With a model of your own:\n"
        "  tfcompress doctor model.keras\n"
        "  tfcompress export model.keras m.tflite --scheme w8a8 --calibration x.npz\n"
        "  tfcompress compress model.keras --max-bytes 25% --train train.npz \\\n"
        "    --validation valid.npz\n"
        "README.md has the same in Python, with pruning and distillation."
    )


class _Work:
    """Shows how far all of the demo is, and what time is left; in a log, by lines.

    Args:
        data: the images.
        length: how long control and student go on.
        console: where it is shown.
    """

    def __init__(self, data: ImageData, length: _Length, console: Console):
        self.data, self.length, self._console = data, length, console
        self.comes_trained = data.name.startswith("Fashion-MNIST")
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        before = 0 if self.comes_trained else 2 * self._cost(_FROM_THE_START)
        total = before + (1 + _DISTILLED) * self._cost(length)
        total += _EXPORTING + _VERIFYING + _MEASURING
        self._task = self._bar.add_task("", total=total)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Work:
        count, name = len(self.data.x_train), self.data.name
        known = ", which teacher and student were trained on" * self.comes_trained
        self._console.print(f"Data: {name}, {count} training images{known}.")
        self._stack.enter_context(self._bar)
        if not self._console.is_terminal:
            self._stack.enter_context(each_minute(self._say))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def doing(self, label: str, cost: float) -> Iterator[None]:
        """Says what is done within; `cost` is how far that brings the bar."""
        self._bar.update(self._task, description=label)
        if not self._console.is_terminal:
            self._console.print(label, highlight=False)
        before = self._bar.tasks[0].completed
        yield
        self._bar.update(self._task, completed=before + cost)

    def fit(
        self,
        model: keras.Model,
        label: str,
        length: _Length,
        *callbacks: keras.callbacks.Callback,
        cost: float = 1,
    ) -> None:
        """Trains one model with a rate that falls to zero."""
        data = self.data
        x, y = data.x_train[: length.images], data.y_train[: length.images]
        epochs = length.epochs(len(x))
        steps = epochs * length.steps_of_an_epoch(len(x))
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        each = cost * self._cost(length) / steps
        bar = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self._bar.advance(self._task, each)
        )
        with self.doing(f"{label} ({steps} steps)", cost * self._cost(length)):
            model.fit(
                x,
                y,
                batch_size=length.batch,
                epochs=epochs,
                verbose=0,
                callbacks=[*callbacks, bar],
            )

    def _cost(self, length: _Length) -> int:
        count = len(self.data.x_train)
        return min(length.images, count) * length.epochs(count)

    def _say(self, seconds: float) -> None:
        task = self._bar.tasks[0]
        share = task.percentage / 100
        text = f", about {seconds * (1 / share - 1):.0f} s left" if share else ""
        self._console.print(f"[{seconds:.0f} s{text}]", markup=False, highlight=False)


def _accuracy(logits: np.ndarray, data: ImageData) -> float:
    return float(np.mean(np.argmax(logits, axis=-1) == data.y_test))
