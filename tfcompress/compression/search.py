"""Search: which candidates are built. Optuna proposes; its storage is shared."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfcompress.compression.budget import Budget
from tfcompress.compression.candidate import Candidate, Workshop
from tfcompress.compression.proposals import Space
from tfcompress.core.arguments import integer, number
from tfcompress.core.errors import ArtifactError, CompressionError, one_line

_HEARTBEAT = 5  # seconds between signs of life of a process that builds
_DEAD = 20  # seconds without one after which others take over
_RETRIES = 2
# Proposals in a row that came to nothing, after which a new one is enqueued.
_STUCK = 2
_REFUSALS = 3
_TOO_FEW = 4
# What each candidate is trained by default: steps, and the fewest and most passes.
_STEPS = 2000
_PASSES = (4, 100)


@dataclasses.dataclass(frozen=True)
class Search:
    """How long `compress` searches, and where it keeps what it made.

    Args:
        trials: number of candidates that are built, by all processes together.
        epochs: passes over the training data, for all candidates together. Each gets an
            equal share, and at least one for each of its fits. None makes some 2,000
            steps for each, in 4 to 100 passes.
        minutes: no candidate is started after this many minutes; None for no limit.
        directory: for artifacts, trained stages and the study. Calling `compress` again
            with the same arguments continues where it stopped, even after `kill -9`;
            several processes may share it.
        storage: URL of Optuna's storage, for several machines; None for a file in
            `directory`.
        seed: seed of everything random.
        batch_size: for data in arrays; None takes that of the model's own `fit`, if
            this process ran it, and otherwise 32 for less than 10,000 samples and 128
            for more.
        learning_rate: the rate at which candidates begin; None takes the one that the
            model's own training began with.
        final: the best candidate is trained once more at the end, for this many times
            as long. None is 3, or 1 (not at all) where `epochs` is given.
        verbose: 1 shows progress.

    Raises:
        InvalidArgumentError: if a number is out of its range.

    Example:

    >>> Search(trials=4, epochs=8).directory
    'compressed'
    """

    trials: int = 8
    epochs: int | None = None
    minutes: float | None = None
    directory: str = "compressed"
    storage: str | None = None
    seed: int = 0
    batch_size: int | None = None
    learning_rate: float | None = None
    final: int | None = None
    verbose: int = 1

    def __post_init__(self) -> None:
        for name in ("trials", "epochs", "batch_size", "final"):
            if getattr(self, name) is not None:
                integer(getattr(self, name), f"Bad `{name}`.", low=1)
        integer(self.seed, "Bad `seed`.", low=0, high=2**31 - 1)
        if self.minutes is not None:
            number(self.minutes, "Bad `minutes`.", "(0, inf]")
        if self.learning_rate is not None:
            number(self.learning_rate, "Bad `learning_rate`.", "(0, inf)")

    @property
    def times_as_long(self) -> int:
        """How many times as long the best candidate is trained in the end."""
        return self.final or (3 if self.epochs is None else 1)

    def epochs_of_each(self, steps: int) -> int:
        """Returns how often each candidate sees the training data.

        Args:
            steps: batches of the training data.

        Example:

        >>> Search().epochs_of_each(15), Search(trials=4, epochs=8).epochs_of_each(15)
        (100, 2)
        """
        if self.epochs is None:
            fewest, most = _PASSES
            return min(max(round(_STEPS / steps), fewest), most)
        return max(self.epochs // self.trials, 1)


@dataclasses.dataclass(frozen=True)
class Tried:
    """A proposal that was tried: a candidate, or the reason why there is none."""

    number: int
    candidate: Candidate | None
    failure: str | None = None


def run_search(
    search: Search,
    space: Space,
    budget: Budget,
    workshop: Workshop,
    deadline: float,
    report: Callable[[int, int], None] = lambda done, all: None,
) -> list[Tried]:
    """Builds candidates until there are enough; returns those of all processes.

    Args:
        search: how long, and where.
        space: what may be proposed.
        budget: what is asked for.
        workshop: makes the candidates.
        deadline: the time (`time.monotonic`) after which no candidate is begun.
        report: is told how many trials are done, and of how many.
    """
    import optuna

    states = optuna.trial.TrialState
    baseline, task = space.baseline, workshop.task
    total = min(search.trials, len(space.all()))

    def objective(trial: Any) -> tuple[float, float]:
        point = {
            name: trial.suggest_categorical(name, options)
            for name, options in space.axes.items()
        }
        recipe = space.recipe(point, f"candidate {trial.number}")
        key = workshop.key(recipe)
        trial.set_user_attr("key", key)
        trial.set_user_attr("recipe", recipe.to_yaml())
        earlier = _same(trial, key)
        if earlier is not None:
            trial.set_user_attr("same as", earlier)
            raise optuna.TrialPruned
        try:
            made = workshop.build(recipe)
        except CompressionError as error:
            trial.set_user_attr("failure", str(error))
            raise optuna.TrialPruned from error
        excess = budget.excess(made.measures, baseline, task.higher_is_better)
        for limit, value in excess.items():
            trial.set_constraint(limit, value)
        return getattr(made.measures, budget.cost), made.measures.metric

    with _quiet(optuna):
        study = _study(search, space, budget, workshop, task.higher_is_better)
        while True:
            trials = study.get_trials(deepcopy=False)
            done = [t for t in trials if t.state == states.COMPLETE]
            refused = [t for t in trials if "failure" in t.user_attrs]
            running = [t for t in trials if t.state == states.RUNNING]
            report(len(done), total)
            if len(done) >= total or time.monotonic() > deadline:
                break
            if len(refused) > _REFUSALS * total:
                break  # what the export refuses once, it may refuse of all
            optuna.storages.fail_stale_trials(study)
            if len(done) + len(running) >= total:
                time.sleep(1)  # another process is at the last ones
                continue
            fruitless = (t.state == states.PRUNED for t in trials[-_STUCK:])
            if len(trials) >= _STUCK and all(fruitless):
                _enqueue_new(study, space, budget)
            # Of its own number's seed: proposals do not depend on how often a search
            # was interrupted.
            study.sampler = _sampler(search.seed + len(trials))
            study.optimize(objective, n_trials=1)
    return [_tried(trial, space, workshop) for trial in (*done, *refused)]


def _study(
    search: Search,
    space: Space,
    budget: Budget,
    workshop: Workshop,
    higher_is_better: bool,
) -> Any:

    directory = Path(search.directory)
    directory.mkdir(parents=True, exist_ok=True)
    url = search.storage or f"sqlite:///{(directory / 'study.db').absolute()}"
    with _explained(url):
        return _opened(search, space, budget, workshop, higher_is_better, url)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Says which file is meant where the database says what is wrong with it."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        raise ArtifactError(
            "The study of the search cannot be read.",
            received=f"{url.rpartition('@')[2]}: {one_line(error)}",
            expected="the database that an earlier search made there, or none",
            fix="delete it: candidates that are whole are found again",
        ) from error


def _opened(
    search: Search,
    space: Space,
    budget: Budget,
    workshop: Workshop,
    higher_is_better: bool,
    url: str,
) -> Any:
    import optuna

    storage = optuna.storages.RDBStorage(
        url,
        heartbeat_interval=_HEARTBEAT,
        grace_period=_DEAD,
        heartbeat_stale_trial_callback=(
            optuna.storages.RetryHeartbeatStaleTrialCallback(_RETRIES)
        ),
    )
    asked = repr((workshop.task.fingerprint, budget, space.scenario))
    asked += repr((space.epochs, search.seed))
    study = optuna.create_study(
        storage=storage,
        study_name=hashlib.sha256(asked.encode()).hexdigest()[:16],
        directions=["minimize", "maximize" if higher_is_better else "minimize"],
        load_if_exists=True,
    )
    if not study.get_trials(deepcopy=False):
        # Half of what is built is what looks best beforehand; then Optuna learns. From
        # a handful it could not.
        first = max(search.trials // 2, min(search.trials, _TOO_FEW))
        for point in space.ranked(budget, first):
            study.enqueue_trial(dict(point), skip_if_exists=True)
    return study


def _enqueue_new(study: Any, space: Space, budget: Budget) -> None:
    known = [trial.params for trial in study.get_trials(deepcopy=False)]
    points = sorted(space.all(), key=space.damage)
    for point in (*space.ranked(budget, len(points)), *points):
        if dict(point) not in known:
            study.enqueue_trial(dict(point))
            return


def _sampler(seed: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=1,
        multivariate=True,
    )


def _same(trial: Any, key: str) -> int | None:
    """Returns the number of an earlier trial with the same recipe."""
    import optuna

    dead = (optuna.trial.TrialState.FAIL, optuna.trial.TrialState.WAITING)
    earlier = (
        other.number
        for other in trial.study.get_trials(deepcopy=False)
        if other.number < trial.number
        and other.state not in dead
        and other.user_attrs.get("key") == key
        and "same as" not in other.user_attrs
    )
    return next(earlier, None)


def _tried(trial: Any, space: Space, workshop: Workshop) -> Tried:
    failure = trial.user_attrs.get("failure")
    if failure is not None:
        return Tried(trial.number, None, failure)
    recipe = space.recipe(trial.params, f"candidate {trial.number}")
    # Read from the disk; built again only if another machine made it.
    return Tried(trial.number, workshop.build(recipe))


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna's log says what the progress bar says better."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Heartbeats and constraints are marked experimental; both are tested here.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
