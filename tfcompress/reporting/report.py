"""The `report` function and what it returns."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from tfcompress.benchmarking import benchmark
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.html import html_table
from tfcompress.core.tables import table
from tfcompress.core.text_json import dumps
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.export import load
from tfcompress.exporters.keras_runner import KerasRunner
from tfcompress.exporters.npu import NPUFigures
from tfcompress.exporters.runner import Runner
from tfcompress.reporting import measures, page, tables
from tfcompress.reporting.evidence import Evidence
from tfcompress.reporting.rows import Row, compared
from tfcompress.reporting.storage import storage
from tfcompress.reporting.subjects import checked

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tfcompress.reporting.evidence import EvidenceOptions


@dataclass(frozen=True)
class Report:
    """Rows to compare; the first one is the baseline.

    `print(report)` gives markdown, `report.print()` a table in the terminal.

    Args:
        rows: one row for the baseline and one for each artifact.
        evidence: curves, candidates, layers and trust; see `report`.

    Example:

    >>> print(Report((Row("teacher", "keras", size=4000, gzip_size=3000),)))
    | model   | format | weight bytes | gzip bytes |
    | ------- | ------ | -----------: | ---------: |
    | teacher | keras  |        4,000 |      3,000 |
    """

    rows: tuple[Row, ...]
    evidence: Evidence = field(default_factory=Evidence)

    def to_markdown(self) -> str:
        """Returns the rows, the front and what trust has to say as markdown tables."""
        parts = [tables.markdown(self.rows)]
        for row in self.rows:
            if row.npu is not None:
                layers = table(*tables.npu_cells(row.npu))
                parts.append(f"## {row.name} on {row.npu.npu}\n\n{layers}")
        if self.evidence.front:
            parts.append("## Candidates\n\n" + tables.candidates(self.evidence.front))
        if self.evidence.trust is not None:
            parts.append("## Trust\n\n" + self.evidence.trust.to_markdown())
        return "\n\n".join(parts)

    def to_json(self) -> str:
        """Returns rows and evidence as a JSON object, unrounded; NaN becomes null."""
        trust = self.evidence.trust
        everything = {
            "rows": [
                {
                    **dataclasses.asdict(row),
                    "file_size": row.file_size,
                    "weight_size": row.weight_size,
                }
                for row in self.rows
            ],
            **dataclasses.asdict(dataclasses.replace(self.evidence, trust=None)),
            "trust": None if trust is None else json.loads(trust.to_json()),
        }
        return dumps(everything)

    def to_html(self, filepath: str | os.PathLike) -> Path:
        """Writes one HTML page that needs no other file and no network.

        Args:
            filepath: where; a file that is there is replaced.

        Returns:
            The path.

        Raises:
            CompressionError: if `tfcompress[report]` is not installed.
            ExportError: if the disk refuses to take it.
        """
        return page.write_html(self.rows, self.evidence, filepath)

    def to_png(self, filepath: str | os.PathLike) -> Path:
        """Writes all figures as one picture; otherwise as `to_html`."""
        return page.write_png(self.rows, self.evidence, filepath)

    def print(self, console: Any = None) -> None:
        """Prints the table in the terminal, or on a given `rich` console."""
        import rich

        (console or rich.get_console()).print(self)

    def __rich__(self) -> Any:
        return tables.terminal(self.rows)

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        trust = self.evidence.trust
        parts = [html_table(*tables.side_by_side(self.rows))]
        if self.evidence.front:
            parts.append(html_table(*tables.candidate_cells(self.evidence.front)))
        if trust is not None:
            parts.append(trust._repr_html_())
        return "".join(parts)


def report(
    baseline: Any,
    *artifacts: Artifact | keras.Model,
    evaluate: Callable[[Callable[[Any], Any]], float] | None = None,
    latency_inputs: Any = None,
    threads: int = 1,
    runs: int = 50,
    packed: bool = False,
    **evidence: Unpack[EvidenceOptions],
) -> Report:
    """Puts sizes, sparsity, cost, metric and latency of artifacts side by side.

    Use it last, to see what compression gained over the original model.

    Args:
        baseline: what the ratios refer to: a Keras model or an artifact. Without other
            arguments it may be what `compress` returned; the report is then that of the
            result.
        *artifacts: what is compared with it: artifacts or Keras models.
        evaluate: is called with a function from input arrays to output arrays for
            each row, and returns the metric, for example an accuracy.
        latency_inputs: real samples to measure the latency of one call on; None
            measures none. The calls of all rows are interleaved.
        threads: CPU threads of "tflite" artifacts while latency is measured.
        runs: timed calls of each row.
        packed: whether to measure zipped bytes, packed bytes and the entropy bound too,
            which takes about a second per megabyte; `storage` has them layer by layer.
        **evidence: what to show beside the rows, all of it optional:
            `history`: training curves: what `fit` returned, or a dict.
            `front`: the candidates of a search, a list of `FrontPoint`.
            `sensitivity`: a dict from a layer's name to what was lost when only this
            layer was compressed, in units of the metric.
            `trust`: what `trust` returned.

    Returns:
        A `Report`.

    Raises:
        InvalidArgumentError: if something is neither a model nor an artifact, or no
            such evidence.
        ArtifactError: if an artifact is damaged.

    Example:

    ```python
    def accuracy(predict):
        return float((predict(x_test).argmax(-1) == y_test).mean())


    print(tfcompress.report(teacher, phone, server, evaluate=accuracy))
    ```
    """
    if evaluate is not None and not callable(evaluate):
        raise InvalidArgumentError(
            "`evaluate` measures a model.",
            received=repr(evaluate),
            expected="a function from a function of arrays to a number",
        )
    own = getattr(type(baseline), "report", None)
    if callable(own) and not artifacts and evaluate is None and latency_inputs is None:
        made = own(baseline)
        more = {name: getattr(Evidence.of(evidence), name) for name in evidence}
        return dataclasses.replace(
            made, evidence=dataclasses.replace(made.evidence, **more)
        )
    shown = Evidence.of(evidence)
    subjects = [checked(subject) for subject in (baseline, *artifacts)]
    runners: list[Runner | None] = [None] * len(subjects)
    if evaluate is not None or latency_inputs is not None:
        runners = [_runner(subject, threads) for subject in subjects]
    metrics: list[float | None] = [None] * len(subjects)
    if evaluate is not None:
        metrics = [float(evaluate(runner)) for runner in runners if runner]
    latencies: list[float | None] = [None] * len(subjects)
    if latency_inputs is not None:
        measured = benchmark(runners, latency_inputs, threads, runs)
        latencies = [result.median for result in measured]
    rows: list[Row] = []
    for subject, metric, latency in zip(subjects, metrics, latencies):
        row = dataclasses.replace(_measure(subject), metric=metric, latency=latency)
        if packed:
            row = dataclasses.replace(row, **_sizes(subject))
        rows.append(compared(row, rows))
    return Report(tuple(rows), shown)


def _measure(subject: keras.Model | Artifact) -> Row:
    layers = measures.layer_weights(subject)
    common: dict[str, Any] = {
        "layers": layers,
        "sparsity": measures.sparsity(layers),
        "macs": measures.macs(subject),
    }
    if isinstance(subject, Artifact):
        return Row(
            name=subject.name,
            path=str(subject.path),
            format=subject.format,
            size=subject.size,
            gzip_size=subject.gzip_size,
            integer_coverage=subject.integer_coverage,
            **_of_npu(subject.npu),
            **common,
        )
    size, gzip_size = measures.weight_bytes(subject)
    return Row(subject.name, "keras", size, gzip_size, **common)


def _of_npu(npu: NPUFigures | None) -> dict[str, Any]:
    if npu is None:
        return {}
    figures = {"cycles": npu.cycles, "sram": npu.sram, "npu_share": npu.share}
    return {"npu": npu, **figures}


def _sizes(subject: keras.Model | Artifact) -> dict[str, Any]:
    found = storage(subject)
    names = ("zip_size", "entropy_size", "packed_size")
    return {name: getattr(found, name) for name in names}


def _runner(subject: keras.Model | Artifact, threads: int) -> Runner:
    if isinstance(subject, Artifact):
        return load(subject, threads)
    return KerasRunner(subject)
