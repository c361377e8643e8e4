"""doctor_all: one model, asked about for every target at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from tfcompress.core.html import html_table
from tfcompress.core.select import require_built
from tfcompress.core.tables import table
from tfcompress.diagnosis.diagnose import doctor
from tfcompress.diagnosis.findings import Diagnosis
from tfcompress.exporters.artifact import EXPORTERS
from tfcompress.quantization.scheme import Scheme

_HEADINGS = ("target", "runtime", "runs", "in integers", "on the NPU", "what to change")


@dataclass(frozen=True)
class TargetTable:
    """What `doctor_all` found: a diagnosis for each format.

    Attributes:
        diagnoses: those of the formats, by name.
    """

    diagnoses: dict[str, Diagnosis]

    @property
    def deployable(self) -> tuple[str, ...]:
        """The formats in which the model will run."""
        return tuple(n for n, one in self.diagnoses.items() if one.deployable)

    def rows(self) -> Iterator[list[str]]:
        """Yields what the table says of each target."""
        for format, found in self.diagnoses.items():
            coverage, npu = found.integer_coverage, found.npu
            yield [
                format,
                found.runtime,
                "yes" if found.deployable else "no",
                "-" if coverage is None else f"{coverage:.0%}",
                "-" if npu is None else f"{npu.share:.0%}",
                _changes(found),
            ]

    def to_markdown(self) -> str:
        """Returns the table in Markdown."""
        return table(_HEADINGS, list(self.rows()), len(_HEADINGS))

    def __str__(self) -> str:
        return self.to_markdown()

    def __rich__(self) -> Any:
        from rich.table import Table

        shown = Table(show_lines=True)
        for heading in _HEADINGS:
            shown.add_column(heading, overflow="fold")
        for row in self.rows():
            shown.add_row(*row)
        return shown

    def _repr_html_(self) -> str:
        return html_table(list(_HEADINGS), list(self.rows()))


def doctor_all(
    model: keras.Model,
    scheme: Scheme | None = None,
    trial: bool = True,
) -> TargetTable:
    """Tells of a model for every target whether it will run there, in one table.

    When to use: before a target is chosen, or where a model has to run on several. For
    one target `doctor` says more, and takes the options of its format.

    Args:
        model: a built model; neither it nor the disk is changed.
        scheme: the quantization that is planned, for all targets; None asks about the
            float model, which NPUs and microcontrollers do not take.
        trial: whether to export the model to each target as a trial (for each a few
            seconds, for large models a minute).

    Returns:
        A `TargetTable`; print it. Its diagnoses have all findings.

    Raises:
        InvalidArgumentError: for an unbuilt model or an unknown scheme.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="y")])
    >>> found = doctor_all(model, "w8a8", trial=False)
    >>> "tflite" in found.deployable, found.diagnoses["tflite"].findings
    (True, ())
    """
    require_built(model, "examine the model")
    formats = EXPORTERS.names()
    return TargetTable({one: doctor(model, one, scheme, trial) for one in formats})


def _changes(found: Diagnosis) -> str:
    """Returns what the findings ask for, each layer and each advice once."""
    said = [
        f"{finding.layer or finding.kind}: {finding.fix}"
        for finding in found.findings
        if found.deployable or finding.severity == "error"
    ]
    return "; ".join(dict.fromkeys(said)) or "-"
