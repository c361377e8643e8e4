"""Carrying out a recipe: stage by stage, from the trained model to the deployed one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import keras

from tfcompress.compression.kept import read_kept, write_kept
from tfcompress.compression.recipe import Recipe
from tfcompress.compression.run import Run
from tfcompress.compression.task import Task, seeded
from tfcompress.core.errors import ExportError
from tfcompress.exporters.manifest_file import sha256_of
from tfcompress.exporters.publishing import staged
from tfcompress.finalization import finalize

History = dict[str, list[float]]


def carry_out(
    recipe: Recipe,
    task: Task,
    cache: Path,
    report: Callable[[str], None] = lambda stage: None,
) -> tuple[keras.Model, History]:
    """Returns the finalized model that a recipe makes, and the logs of its fits.

    Trained stages are kept in `cache`: a recipe that begins as another one did, or
    that was interrupted, goes on from there.

    Args:
        recipe: the stages.
        task: the trained model and what it is trained for.
        cache: directory for trained stages and the teacher's outputs.
        report: is told what each stage does before it begins.
    """
    for stage in recipe.stages:
        stage.check()
    run = Run(task.model, task, cache, recipe.seed)
    key = f"{task.fingerprint} {recipe.seed}"
    for position, stage in enumerate(recipe.stages):
        step = json.dumps([stage.name, stage.get_config()], sort_keys=True)
        key = hashlib.sha256(f"{key} {step}".encode()).hexdigest()[:32]
        kept = cache / "trained" / f"{key}.keras"
        report(str(stage))
        with seeded(recipe.seed + position):
            if stage.trains and _restore(run, kept):
                continue
            stage.apply(run)
            if stage.trains:
                _keep(run, kept)
    return finalize(run.model), run.history


def _keep(run: Run, path: Path) -> None:
    try:
        with staged(path, overwrite=True) as stage:
            run.model.save(stage)
            model = sha256_of(stage)
        write_kept(path.with_suffix(".json"), {"model": model, "history": run.history})
    except (ExportError, TypeError, NotImplementedError):
        return  # what cannot be kept is made again


def _restore(run: Run, path: Path) -> bool:
    kept = read_kept(path.with_suffix(".json"))
    try:
        if kept is None or sha256_of(path) != kept["model"]:
            return False
        run.model = keras.saving.load_model(path, compile=False)
    except Exception:  # what cannot be read is made again, whatever is wrong with it
        return False
    run.history = kept["history"]
    run.trained()
    return True
