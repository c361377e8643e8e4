"""Run: a model on its way through the stages of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from tfcompress.compression.task import Task, Training

# What makes a callback for a fit of so many epochs.
MakeCallback = Callable[[int], keras.callbacks.Callback]


@dataclasses.dataclass(frozen=True)
class Technique:
    """What a stage asks of the fits that follow it.

    Attributes:
        first: makes the callback of the next fit.
        later: makes the callback of the fits after that, which keep what was reached.
    """

    first: MakeCallback
    later: MakeCallback


@dataclasses.dataclass
class Run:
    """Where a pipeline is.

    Attributes:
        model: the model, as far as it is.
        task: what it is trained for.
        cache: directory for what is expensive to make twice.
        seed: of everything random.
        first: techniques that wait for their first fit.
        later: techniques that had it, and hold on.
        teaching: arguments of a `Distiller` for the fits to come, or None.
        history: logs of all fits, one after the other.
    """

    model: keras.Model
    task: Task
    cache: Path
    seed: int
    first: list[Technique] = dataclasses.field(default_factory=list)
    later: list[Technique] = dataclasses.field(default_factory=list)
    teaching: dict[str, Any] | None = None
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    @property
    def techniques(self) -> list[Technique]:
        """All techniques that are in force."""
        return [*self.later, *self.first]

    def fit(self, epochs: int, learning_rate: float) -> None:
        """Fine-tunes the model, with all techniques that are in force."""
        training = Training(
            epochs,
            learning_rate,
            [t.later(epochs) for t in self.later]
            + [t.first(epochs) for t in self.first],
            self.teaching,
            self.seed,
            self.cache / f"teacher-{self.task.fingerprint}",
        )
        for name, values in self.task.fit(self.model, training).items():
            self.history.setdefault(name, []).extend(values)
        self.trained()

    def trained(self) -> None:
        """Notes that a fit is over: what began in it is held from now on."""
        self.later, self.first = self.techniques, []
