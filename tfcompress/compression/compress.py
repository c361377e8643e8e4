"""compress: the one call."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import keras

from tfcompress.compression.budget import COSTS, Budget, Measures
from tfcompress.compression.candidate import Candidate, Workshop
from tfcompress.compression.floor import check_possible
from tfcompress.compression.progress import Progress
from tfcompress.compression.proposals import Space
from tfcompress.compression.recipe import Recipe
from tfcompress.compression.result import Result
from tfcompress.compression.scenario import considered, possible, scenario_of
from tfcompress.compression.search import Search, Tried, run_search
from tfcompress.compression.sensitivity import sensitivity
from tfcompress.compression.task import Task
from tfcompress.core.backend import require_tensorflow
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.workers import require_chief
from tfcompress.exporters.artifact import EXPORTERS
from tfcompress.exporters.publishing import check_writable
from tfcompress.layers import model_kernels


def compress(
    model: keras.Model,
    train: Any,
    validation: Any,
    budget: Budget,
    target: str | None = None,
    recipe: Recipe | str | os.PathLike = "auto",
    metric: str | tuple[str, str] | None = None,
    search: Search | None = None,
) -> Result:
    """Makes a trained model fit a budget, as a real artifact, and shows the evidence.

    When to use: when the goal is "under 250 kB, under one point, on this phone",
    whichever techniques reach it. First the uncompressed model is exported and
    measured, then how sensitive each layer is to compression. Techniques that help the
    target are combined into candidates, and each of them is trained with the original
    as its teacher, exported, run and measured. Half of the candidates are those that
    look best beforehand; the others are proposed by Optuna from what was measured.

    Source: the search is multi-objective TPE (Ozaki et al., 2022) with constraints,
    over the metric and the cost that the budget limits.

    Args:
        model: a trained and compiled model. It is not changed. Its loss and metrics
            are used, and a fresh optimizer of its kind.
        train: what `fit` takes: `(x, y)` of arrays, a `tf.data.Dataset` of batches,
            or a `keras.utils.PyDataset`.
        validation: in the same forms; candidates are chosen on it, so keep a test set
            apart for the final evaluation.
        budget: what the model may cost.
        target: format of the artifact, as in `export`; None takes that of the recipe,
            or "tflite", and "ethos_u" for a budget of an NPU.
        recipe: "auto" searches. A `Recipe`, the path of one, or the name of a built-in
            one is carried out once.
        metric: name of a compiled metric, or `(name, "max")` or `(name, "min")`; None
            for the first one.
        search: how long to search and where to keep the results.

    Returns:
        A `Result`; `result.met` says whether the budget is met, and if not,
        `result.misses` says by how much the nearest candidate misses it.

    Raises:
        InvalidArgumentError: before any training, for a model that is not compiled or
            whose metric is NaN, for data that cannot be read again, for budgets that
            nothing can meet, for a directory that is a file, and on a worker that is
            not the chief.
        ExportError: if nothing can be written there.

    Example:

    ```python
    budget = tfcompress.Budget(max_bytes="250 kB", max_metric_drop=0.01)
    result = tfcompress.compress(model, train, validation, budget)
    print(result)
    result.recipe.save("phone.yaml")
    ```
    """
    require_tensorflow("compress a model")
    require_chief("compress a model", model)
    search = search or Search()
    if not isinstance(budget, Budget):
        raise InvalidArgumentError(
            "`budget` is no budget.",
            received=repr(budget),
            expected="tfcompress.Budget(max_bytes=..., max_metric_drop=...)",
        )
    _check_directory(Path(search.directory))
    given = _recipe(recipe)
    target = target or budget.target or (given.target if given else "tflite")
    _check_target(target)
    options = _options(budget, target, given.export if given else {})
    if given is not None:
        given = dataclasses.replace(given, target=target, export=options)
    task = Task(
        model, train, validation, metric, search.batch_size, search.learning_rate
    )
    with Progress(bool(search.verbose)) as progress:
        workshop = Workshop(task, Path(search.directory), progress.say)
        progress.say("baseline")
        baseline = workshop.baseline(target, options)
        check_possible(budget, baseline, task.model, target)
        with progress.steps("sensitivity of layers") as step:
            found = sensitivity(task, workshop.folder, step)
        costs = budget.costs or (budget.cost,)
        scenario = scenario_of(task.model, target, costs, task.teaches)
        techniques = tuple(possible(task.model, one) for one in considered(scenario))
        if given is not None:
            tried = [Tried(0, workshop.build(given))]
        else:
            space = Space(
                scenario=scenario,
                considered=techniques,
                baseline=baseline.measures,
                weights=_weights(task.model),
                sensitivity=found,
                epochs=search.epochs_of_each(task.train.steps),
                seed=search.seed,
                export=options,
            )
            deadline = time.monotonic() + 60 * (search.minutes or float("inf"))
            tried = run_search(
                search, space, budget, workshop, deadline, progress.count
            )
            tried += _trained_longer(
                tried, search, budget, workshop, baseline.measures, deadline
            )
    made = _made(tried)
    failures = tuple(f"{one.number}: {one.failure}" for one in tried if one.failure)
    if not made:
        raise InvalidArgumentError(
            "No proposal could be built.",
            received="; ".join(failures) or "no time for a single one",
            expected="at least one that the model can take",
        )
    made.sort(key=lambda one: getattr(one.measures, budget.cost))
    best, excess = _best(made, budget, baseline.measures, task.higher_is_better)
    return Result(
        best=best,
        met=not excess,
        misses=tuple(
            _missed(budget, baseline.measures, best.measures, name) for name in excess
        ),
        baseline=baseline,
        candidates=tuple(made),
        failures=failures,
        budget=budget,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        scenario=scenario,
        considered=techniques,
        sensitivity=found,
        original=task.model,
    )


def _options(budget: Budget, target: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of the format: those of a recipe, and the budget's NPU."""
    if budget.npu is None:
        return given
    if target != "ethos_u":
        raise InvalidArgumentError(
            "The budget is one of an NPU, the target is another one.",
            received=f"npu={budget.npu!r} with target {target!r}",
            expected="target 'ethos_u'",
            fix="leave out `target`, or the budget's `npu`",
        )
    known = {field.name for field in dataclasses.fields(EXPORTERS.class_of(target))}
    return {**{k: v for k, v in given.items() if k in known}, "npu": budget.npu}


def _check_target(target: str) -> None:
    instead = EXPORTERS.get(target).measured_as
    if instead:
        raise InvalidArgumentError(
            f"Candidates for {target!r} cannot be measured here: its device is needed.",
            received=f"target={target!r}",
            expected="a target that runs on this machine",
            fix=f"compress for target={instead!r}, and export the result's model to "
            f"{target!r}",
        )


def _check_directory(directory: Path) -> None:
    if os.path.lexists(directory) and not directory.is_dir():
        raise InvalidArgumentError(
            "The search needs a directory for what it makes.",
            received=f"{directory}, which is a file",
            expected="a directory, or a path where nothing exists yet",
        )
    check_writable(directory / "study.db")


def _recipe(recipe: Recipe | str | os.PathLike) -> Recipe | None:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe == "auto":
        return None
    if isinstance(recipe, str) and recipe in Recipe.ready_names():
        return Recipe.ready(recipe)
    if isinstance(recipe, (str, os.PathLike)) and Path(recipe).exists():
        return Recipe.load(recipe)
    raise InvalidArgumentError(
        "There is no such recipe.",
        received=repr(recipe),
        expected="'auto', a Recipe, the path of a file, or one of "
        + ", ".join(map(repr, Recipe.ready_names())),
    )


def _made(tried: list[Tried]) -> list[Candidate]:
    return [one.candidate for one in tried if one.candidate is not None]


def _trained_longer(
    tried: list[Tried],
    search: Search,
    budget: Budget,
    workshop: Workshop,
    baseline: Measures,
    deadline: float,
) -> list[Tried]:
    """Returns the best candidate once more, trained for longer than in the search."""
    made, times = _made(tried), search.times_as_long
    if not made or times == 1 or time.monotonic() > deadline:
        return []
    best, _ = _best(made, budget, baseline, workshop.task.higher_is_better)
    name = f"{best.name}, {times} times as long"
    longer = dataclasses.replace(best.recipe.trained_longer(times), name=name)
    return [Tried(len(tried), workshop.build(longer))]


def _best(
    made: list[Candidate], budget: Budget, baseline: Measures, higher_is_better: bool
) -> tuple[Candidate, list[str]]:
    """Returns the best candidate, and the limits that it passes."""
    sign = 1 if higher_is_better else -1
    beyond = [budget.excess(c.measures, baseline, higher_is_better) for c in made]
    within = [c for c, found in zip(made, beyond) if max(found.values()) <= 0]
    if within and not budget.costs:
        # Nothing but the metric is limited: the smallest is what was asked for.
        return within[0], []
    if within:
        return max(within, key=lambda c: sign * c.measures.metric), []
    nearest = min(range(len(made)), key=lambda i: max(beyond[i].values()))
    passed = [name for name, value in beyond[nearest].items() if value > 0]
    return made[nearest], passed


def _missed(budget: Budget, baseline: Measures, measures: Measures, name: str) -> str:
    if name == "max_metric_drop":
        change = measures.metric - baseline.metric
        allowed = budget.max_metric_drop
        return f"the metric changes by {change:+.4f}, {allowed:g} is allowed"
    limit, measure = budget.limits(baseline)[name], COSTS[name]
    value = getattr(measures, measure)
    return f"{measure} {value:,.6g}, {limit:,.6g} are allowed"


def _weights(model: keras.Model) -> int:
    return sum(variable.numpy().size for _, _, variable in model_kernels(model))
