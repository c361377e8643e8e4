"""What `doctor` found: one thing, and all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tfcompress.core.errors import ExportError
from tfcompress.core.html import html_table, paragraph
from tfcompress.exporters.npu import NPUFigures


@dataclass(frozen=True)
class Finding:
    """One thing that stands between a model and its target.

    Attributes:
        severity: `"error"`: there will be no artifact that runs; `"warning"`: it runs,
            but a part of it not as asked, such as in float.
        layer: name of the layer; empty where it is about the whole model.
        kind: class of the layer, or name of the runtime's operator.
        problem: what is wrong.
        fix: what to do about it.
    """

    severity: Literal["error", "warning"]
    layer: str
    kind: str
    problem: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.layer} ({self.kind})" if self.layer else self.kind
        return f"{self.severity}: {place}: {self.problem}. What to do: {self.fix}."


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        format: the export format that was asked about.
        runtime: what runs it.
        scheme: the quantization that was asked about, None for float.
        findings: errors first.
        integer_coverage: share of the work in integers (see `Artifact`), of the trial
            export; for "onnx" and "openvino" the share of the multiply-accumulates for
            which the runtime takes integer kernels on this machine. None where there
            was no trial, or the format has no such notion.
        npu: what the compiler of an NPU said of the trial export; None without one.
    """

    format: str
    runtime: str
    scheme: Any
    findings: tuple[Finding, ...]
    integer_coverage: float | None = None
    npu: NPUFigures | None = None

    @property
    def deployable(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def raise_if_not_deployable(self) -> None:
        """Raises an `ExportError` that names every error; does nothing without one."""
        errors = [f for f in self.findings if f.severity == "error"]
        if errors:
            raise ExportError(
                f"The model will not run in {self.runtime}.",
                received="; ".join(f"{e.layer or e.kind}: {e.problem}" for e in errors),
                fix="; ".join(dict.fromkeys(e.fix for e in errors)),
            )

    def to_markdown(self) -> str:
        """Returns the findings as a table."""
        head = "| | layer | problem | what to do |\n|---|---|---|---|"
        rows = [
            f"| {f.severity} | {f.layer or '-'} ({f.kind}) | {f.problem} | {f.fix} |"
            for f in self.findings
        ]
        return "\n".join([head, *rows])

    def _repr_html_(self) -> str:
        text = paragraph(self._verdict(), strong=True)
        rows = [
            [f.layer or f.kind, f.kind, f.severity, f.problem, f.fix]
            for f in self.findings
        ]
        headings = ["layer", "kind", "severity", "problem", "what to do"]
        return text + (html_table(headings, rows) if rows else "")

    def _verdict(self) -> str:
        asked = f"{self.format}, {self.scheme or 'float'}, in {self.runtime}"
        verdict = "will deploy" if self.deployable else "will not deploy"
        figures = "" if self.npu is None else f": {self.npu}"
        return f"{verdict} ({asked}){figures}"

    def __str__(self) -> str:
        return "\n".join([self._verdict(), *map(str, self.findings)])


def left_to_cpu(npu: NPUFigures | None) -> Iterator[Finding]:
    """Yields what an NPU leaves to the CPU, each layer's operators once."""
    for one in dict.fromkeys(npu.left if npu is not None else ()):
        yield Finding(
            "warning", one.layer, one.operator, "stays on the CPU", one.reason
        )
