"""Result: what `compress` found, and why it can be trusted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from tfcompress.compression.budget import COSTS, Budget, Measures
from tfcompress.compression.candidate import Candidate
from tfcompress.compression.recipe import Recipe
from tfcompress.compression.scenario import Considered, Scenario
from tfcompress.compression.sensitivity import Sensitivity
from tfcompress.core.errors import VerificationError
from tfcompress.core.html import html_table, paragraph
from tfcompress.core.tables import table
from tfcompress.core.text_json import dumps
from tfcompress.exporters.artifact import Artifact
from tfcompress.reporting import FrontPoint, Report, Row, report
from tfcompress.reporting.rows import compared
from tfcompress.trustworthiness import trust


@dataclasses.dataclass(frozen=True)
class Result:
    """What `compress` made.

    `print(result)` says what was asked for, what came out and what was tried.

    Attributes:
        best: the best candidate within the budget; without one, the nearest to it.
        met: whether `best` is within the budget.
        misses: what of the budget `best` passes, in words; empty if it is met.
        baseline: the artifact of the model as it was.
        candidates: all that were built, the smallest cost first.
        failures: why proposals could not be built, in words.
        budget: what was asked for.
        metric: name of the metric.
        higher_is_better: of the metric.
        scenario: what kind of model for which target.
        considered: which techniques were tried or skipped, and why.
        sensitivity: how much the loss rises if one layer alone is compressed.
        original: the model before compression.
    """

    best: Candidate
    met: bool
    misses: tuple[str, ...]
    baseline: Candidate
    candidates: tuple[Candidate, ...]
    failures: tuple[str, ...]
    budget: Budget
    metric: str
    higher_is_better: bool
    scenario: Scenario
    considered: tuple[Considered, ...]
    sensitivity: Sensitivity
    original: keras.Model = dataclasses.field(repr=False)

    @property
    def artifact(self) -> Artifact:
        """The artifact of the best candidate."""
        return self.best.artifact

    @property
    def model(self) -> keras.Model:
        """The finalized Keras model of the best candidate."""
        return self.best.model

    @property
    def recipe(self) -> Recipe:
        """The recipe of the best candidate: `compress(recipe=...)` makes it again."""
        return self.best.recipe

    @property
    def packed(self) -> Path:
        """The artifact, packed."""
        return self.best.folder / "model.tfc"

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The candidates that no other one beats in cost and metric (Pareto)."""
        return tuple(one for one in self.candidates if not self._beaten(one))

    def raise_if_missed(self) -> Result:
        """Returns the result, or raises if the budget is not met.

        Raises:
            VerificationError: with what is missed.
        """
        if not self.met:
            raise VerificationError(
                "No candidate meets the budget.",
                received=f"{self.best.name}, the nearest: {'; '.join(self.misses)}",
                expected=str(self.budget),
                fix="allow more, give the search more epochs and trials, or begin "
                "with a smaller model",
            )
        return self

    def report(
        self,
        inputs: Any = None,
        labels: Any = None,
        thresholds: Any = None,
        class_names: Sequence[str] | None = None,
    ) -> Report:
        """Returns a report with sizes, curves, candidates, sensitivity and trust.

        Args:
            inputs: samples that nothing was chosen on; None leaves trust out.
            labels: their classes, as for `trust`.
            thresholds: as for `trust`.
            class_names: as for `trust`.
        """
        judged = None
        if inputs is not None:
            judged = trust(
                self.original,
                self.best.runnable,
                inputs,
                labels,
                thresholds,
                class_names=class_names,
            )
        made = report(
            self.baseline.artifact,
            self.artifact,
            packed=True,
            history=self.best.history,
            front=[self._point(one) for one in (self.baseline, *self.candidates)],
            sensitivity={name: of["pruned"] for name, of in self.sensitivity.items()},
            trust=judged,
        )
        return dataclasses.replace(made, rows=self._with_measures(made.rows))

    def _point(self, one: Candidate) -> FrontPoint:
        sign = 1 if self.higher_is_better else -1
        size = one.measures.packed_bytes
        if self.budget.cost == "bytes":
            size = one.measures.bytes
        latency = one.measures.latency_ms
        metric = sign * one.measures.metric
        return FrontPoint(one.name, size, metric, latency, one is self.best)

    def _with_measures(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """Returns the rows with the metric and latency that were measured already."""
        measured = [
            dataclasses.replace(
                row,
                name=one.name,
                metric=one.measures.metric,
                latency=one.measures.latency_ms,
                cycles=one.measures.cycles,
                sram=one.measures.sram,
                npu_share=one.measures.npu_share,
            )
            for row, one in zip(rows, (self.baseline, self.best))
        ]
        return tuple(compared(row, measured[:i]) for i, row in enumerate(measured))

    def to_json(self) -> str:
        """Returns all figures as JSON."""
        content = {
            "met": self.met,
            "misses": list(self.misses),
            "budget": dataclasses.asdict(self.budget),
            "metric": self.metric,
            "scenario": dataclasses.asdict(self.scenario),
            "considered": [dataclasses.asdict(one) for one in self.considered],
            "sensitivity": self.sensitivity,
            "baseline": _figures(self.baseline),
            "best": _figures(self.best),
            "candidates": [_figures(one) for one in self.candidates],
            "front": [one.name for one in self.front],
            "failures": list(self.failures),
        }
        return dumps(content)

    def __str__(self) -> str:
        lines = [self._verdict(), "", table(*self._table()), ""]
        lines += [f"- {one}" for one in self.considered]
        lines += [f"- not built: {failure}" for failure in self.failures]
        lines += [] if self.met else [self._what_would_help()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return paragraph(self._verdict(), strong=True) + html_table(*self._table())

    def _verdict(self) -> str:
        if self.met:
            return f"The budget is met by {self.best.name}.{self._doubt()}"
        return (
            f"No candidate meets the budget. The nearest is {self.best.name}: "
            f"{'; '.join(self.misses)}.{self._doubt()}"
        )

    def _doubt(self) -> str:
        """Returns what to think of figures that do not say all."""
        return self._cpu() + self._nearness()

    def _cpu(self) -> str:
        share = self.best.measures.npu_share
        if share is None or share == 1:
            return ""
        return (
            f" Its cycles are without the {1 - share:.0%} of the operators that the "
            "NPU leaves to the CPU: `result.artifact.npu.left`."
        )

    def _nearness(self) -> str:
        """Returns what to think of a latency that is as near to its limit as errors."""
        limit = self.budget.limits(self.baseline.measures).get("max_latency_ms")
        measures = self.best.measures
        latency, error = measures.latency_ms, measures.latency_error
        if limit is None or abs(latency - limit) > error:
            return ""
        return (
            f" Its latency of {latency:.3g} ± {error:.2g} ms is too near to the limit "
            f"of {limit:.3g} ms to tell: measure on a quiet machine, or allow more."
        )

    def _table(self) -> tuple[tuple[str, ...], Sequence[tuple[str, ...]]]:
        marks = {id(self.best): "chosen" if self.met else "nearest"}
        front = {id(one) for one in self.front}
        on_npu = self.best.measures.cycles is not None
        rows = [
            (
                one.name,
                f"{one.measures.bytes:,}",
                f"{one.measures.packed_bytes:,}",
                f"{one.measures.latency_ms:.3f}",
                *(_on_npu(one.measures) if on_npu else ()),
                f"{one.measures.metric:.4f}",
                marks.get(id(one), "front" if id(one) in front else ""),
                str(one.recipe),
            )
            for one in (self.baseline, *self.candidates)
        ]
        more = ("cycles", "SRAM", "on NPU") if on_npu else ()
        head = ("name", "bytes", "packed", "ms", *more, self.metric, "", "recipe")
        return head, rows

    def _what_would_help(self) -> str:
        """Returns which limits would be met, and what trains candidates better."""
        limits = self.budget.limits(self.baseline.measures)
        beyond = {id(c): self._excess(c) for c in self.candidates}
        lines = []
        for name in ("max_metric_drop", *limits):
            # Those that keep all other limits.
            others = [
                c
                for c in self.candidates
                if all(v <= 0 for n, v in beyond[id(c)].items() if n != name)
            ]
            if not others or name not in beyond[id(self.best)]:
                continue
            if name == "max_metric_drop":
                sign = 1 if self.higher_is_better else -1
                least = max(others, key=lambda c: sign * c.measures.metric)
                drop = sign * (self.baseline.measures.metric - least.measures.metric)
                lines.append(f"`max_metric_drop={_rounded_up(drop)}` ({least.name})")
            else:
                least = min(others, key=lambda c: getattr(c.measures, COSTS[name]))
                cost = getattr(least.measures, COSTS[name])
                lines.append(f"`{name}={_rounded_up(cost)}` ({least.name})")
        would = f"Would be met: {', or '.join(lines)}. " if lines else ""
        return (
            f"{would}Or try more: `Search(trials=..., epochs=...)`; these were "
            f"{len(self.candidates)} candidates, the nearest with "
            f"{self.best.recipe.epochs} epochs."
        )

    def _excess(self, one: Candidate) -> dict[str, float]:
        return self.budget.excess(
            one.measures, self.baseline.measures, self.higher_is_better
        )

    def _beaten(self, one: Candidate) -> bool:
        others = (*self.candidates, self.baseline)
        mine = self._merits(one)
        return any(self._merits(other).dominates(mine) for other in others)

    def _merits(self, one: Candidate) -> FrontPoint:
        # The front is that of the cost which the budget limits, be it bytes or time.
        cost = getattr(one.measures, self.budget.cost)
        return dataclasses.replace(self._point(one), size=cost)


def _on_npu(measures: Measures) -> tuple[str, str, str]:
    assert measures.cycles is not None
    assert measures.sram is not None
    return f"{measures.cycles:,}", f"{measures.sram:,}", f"{measures.npu_share:.0%}"


def _rounded_up(value: float) -> str:
    """Returns a number with three digits that is no smaller."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{math.ceil(value * 10**digits) / 10**digits:.10g}"


def _figures(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "path": str(candidate.path),
        "recipe": candidate.recipe.to_dict(),
        "measures": dataclasses.asdict(candidate.measures),
        "history": candidate.history,
        "verified": candidate.verified,
    }
