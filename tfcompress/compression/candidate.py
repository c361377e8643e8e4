"""Candidates: what recipes make of a model, as real artifacts that were measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from tfcompress.benchmarking import benchmark
from tfcompress.compression.budget import Measures
from tfcompress.compression.kept import (
    put_in_place,
    read_kept,
    sums_of,
    write_kept,
)
from tfcompress.compression.pipeline import History, carry_out
from tfcompress.compression.recipe import Recipe
from tfcompress.compression.steady import steady
from tfcompress.compression.task import Task
from tfcompress.core.errors import ArtifactError
from tfcompress.core.ownership import owned_name, scratch
from tfcompress.exporters.artifact import Artifact, exporter_for
from tfcompress.exporters.export import export, load
from tfcompress.exporters.manifest import record
from tfcompress.exporters.npu import NPUFigures
from tfcompress.exporters.runner import Runner
from tfcompress.finalization import finalize
from tfcompress.packing import pack
from tfcompress.quantization import calibrate
from tfcompress.verification import verify

_PLACES = {"tflite": "model.tflite", "onnx": "model.onnx", "saved_model": "model/1"}
# These hold a .tflite file, which LiteRT runs here as it will be run there.
_INNER = dict.fromkeys(("micro", "ethos_u", "web"), "model/model.tflite")
# Of a microcontroller, what is flashed: the folder holds the same once more.
_FLASHED = {"micro": "model/model.tflite", "ethos_u": "model/model_vela.tflite"}
_MEASURES = "measures.json"
_VERIFIED = 64
_RUNS = 15  # of each measurement, of which there are several


@dataclasses.dataclass(frozen=True)
class Place:
    """Where what a recipe makes is written.

    Attributes:
        recipe: the stages.
        folder: directory with the artifact (`model...`), the same packed
            (`model.tfc`), the finalized Keras model and the recipe.
    """

    recipe: Recipe
    folder: Path

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def path(self) -> Path:
        """Where the artifact is."""
        return self.folder / _PLACES.get(self.recipe.target, "model")

    @property
    def artifact(self) -> Artifact:
        """The artifact."""
        return exporter_for(self.path).inspect(self.path)

    @property
    def runnable(self) -> Path:
        """What is run here: the artifact, or the .tflite file inside it."""
        inner = _INNER.get(self.recipe.target)
        return self.folder / inner if inner else self.path

    def runner(self, threads: int | None = None) -> Runner:
        """Returns the artifact, ready to run here."""
        return load(self.runnable, threads)


@dataclasses.dataclass(frozen=True)
class Candidate(Place):
    """One recipe, what it made, and what that costs.

    Attributes:
        recipe: the stages.
        folder: directory with the artifact (`model...`), the same packed
            (`model.tfc`), the finalized Keras model and the recipe.
        measures: what was measured of the artifact.
        history: logs of all fits.
        verified: what `verify` said of the artifact and the finalized model.
    """

    measures: Measures
    history: History = dataclasses.field(default_factory=dict, repr=False)
    verified: str = ""

    @property
    def model(self) -> keras.Model:
        """The finalized Keras model from which the artifact was exported."""
        return keras.saving.load_model(self.folder / "model.keras", compile=False)


class Workshop:
    """Makes candidates, each once.

    Args:
        task: the trained model and what it is trained for.
        folder: where everything is kept.
        report: is told what is being done.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        report: Callable[[str], None] = lambda text: None,
    ):
        self.task, self.folder, self.report = task, folder, report
        self._reference: Candidate | None = None

    def baseline(self, target: str, options: dict[str, Any]) -> Candidate:
        """Makes the artifact of the model as it is, which all others are held against.

        Args:
            target: format of the artifact.
            options: options of the format.
        """
        self._reference = None
        asked, given = target, options
        # A microcontroller takes no floats: the .tflite file stands for it.
        if target in _FLASHED:
            target, options = "tflite", {}
        made = self.build(Recipe((), target, options, name="baseline"))
        if asked == "ethos_u":
            costs = _costs_on(self._rounded(given).npu)
            made = dataclasses.replace(
                made, measures=dataclasses.replace(made.measures, **costs)
            )
        self._reference = made
        return made

    def _rounded(self, options: dict[str, Any]) -> Artifact:
        """Returns the model as it is on the NPU; its files are gone by then."""
        samples = self.task.samples(_VERIFIED)
        rounded = finalize(calibrate(self.task.model, samples))
        with scratch() as folder:
            return export(rounded, Path(folder) / "model", "ethos_u", **options)

    def build(self, recipe: Recipe) -> Candidate:
        """Returns what a recipe makes; what was made before is read from the disk.

        Raises:
            CompressionError: if a stage or the export refuses.
        """
        folder = self.folder / "candidates" / self.key(recipe)
        content = _read(folder)
        if content is None:
            self._make(recipe, folder)
            content = _read(folder)
        if content is None:
            raise ArtifactError(
                "A candidate changed right after it was made.",
                received=str(folder),
                expected="a disk that keeps what is written to it",
                fix="search in another directory",
            )
        return Candidate(
            recipe=recipe,
            folder=folder,
            measures=Measures(**content["measures"]),
            history=content["history"],
            verified=content["verified"],
        )

    def key(self, recipe: Recipe) -> str:
        """Returns a name for what a recipe makes of this model."""
        content = {**recipe.to_dict(), "name": None, "of": self.task.fingerprint}
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _make(self, recipe: Recipe, folder: Path) -> None:
        candidates = folder.parent
        candidates.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole: a killed process leaves no half of it,
        # and several processes build each their own.
        with owned_name(candidates, ".") as name:
            building = candidates / name
            building.mkdir()
            model, history = carry_out(recipe, self.task, self.folder, self.report)
            self._write(Place(recipe, building), model, history)
            if _read(folder) is None:
                put_in_place(building, folder)

    def _write(self, made: Place, model: keras.Model, history: History) -> None:
        recipe = made.recipe
        self.report(f"{recipe.name}: exporting and measuring")
        artifact = self._written(made, model)
        record(artifact, recipe=recipe.to_dict())
        inputs = self.task.samples(_VERIFIED)
        check = verify(made.runnable, model, inputs)
        content = {
            "measures": dataclasses.asdict(self._measured(made, inputs)),
            "history": history,
            "verified": str(check),
        }
        model.save(made.folder / "model.keras")
        recipe.save(made.folder / "recipe.yaml")
        content["files"] = sums_of(made.folder)
        write_kept(made.folder / _MEASURES, content)

    def _written(self, made: Place, model: keras.Model) -> Artifact:
        """Writes the artifact, by way of a float file where a stage rounds that."""
        recipe, last = made.recipe, made.recipe.of_file
        if last is None:
            return export(model, made.path, format=recipe.target, **recipe.export)
        with scratch() as folder:
            written = export(model, Path(folder) / "float.tflite", **recipe.export)
            return last.rewritten(written, made.path, self.task.samples)

    def _measured(self, made: Place, inputs: Any) -> Measures:
        flashed = _FLASHED.get(made.recipe.target)
        stored = made.folder / flashed if flashed else made.path
        packed = pack(stored, made.folder / "model.tfc")
        metric = self.task.evaluate(made.runner())[self.task.metric]
        own = made.runner(threads=1)
        if self._reference is None:
            latency, error = steady(lambda: benchmark(own, inputs, runs=_RUNS).median)
        else:
            reference = self._reference.runner(threads=1)

            def ratio() -> float:
                theirs, ours = benchmark([reference, own], inputs, runs=_RUNS)
                return ours.median / theirs.median

            # The ratio holds on a busy machine, two times of different hours do not.
            baseline = self._reference.measures.latency_ms
            latency, error = (baseline * value for value in steady(ratio))
        if math.isnan(metric):
            raise ArtifactError(
                "The compressed model's metric is not a number.",
                received=f"{self.task.metric}={metric}",
                expected="a number",
                fix="train more gently: a lower learning rate, or less compression",
            )
        artifact = made.artifact
        size = stored.stat().st_size if flashed else artifact.size
        costs = _costs_on(artifact.npu)
        return Measures(metric, size, packed.size, latency, error, **costs)


def _costs_on(npu: NPUFigures | None) -> dict[str, Any]:
    if npu is None:
        return {}
    return {"cycles": npu.cycles, "sram": npu.sram, "npu_share": npu.share}


def _read(folder: Path) -> dict[str, Any] | None:
    """Returns what was measured of a candidate, if all of its files are as written."""
    content = read_kept(folder / _MEASURES)
    if content is None:
        return None
    found = sums_of(folder)
    whole = all(found.get(name) == known for name, known in content["files"].items())
    return content if whole else None
