"""tfcompress inspect"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress.cli.app import Json, Modules, app, show, working
from tfcompress.cli.inputs import import_modules, is_keras, load_subject
from tfcompress.core.ownership import scratch


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help=".keras, .tflite, .onnx, .tfc or a directory.")
    ],
    modules: Modules = [],  # noqa: B006  (typer reads it)
    as_json: Json = False,
) -> None:
    """Show what is in a model or artifact: sizes, zeros, bits, MACs, operators.

    Example: tfcompress inspect student.tflite
    """
    import_modules(modules)
    with working(f"Reading {path}"):
        content = described(path)
    show(_text(content), as_json, content)


def described(path: Path) -> dict[str, Any]:
    """Returns what `inspect` shows."""
    from tfcompress.packing import unpack
    from tfcompress.reporting import report

    if path.suffix.lower() == ".tfc":
        with scratch() as folder:
            inner = described(unpack(path, Path(folder) / "unpacked"))
        return {**inner, "name": path.name, "packed_size": path.stat().st_size}
    subject = load_subject(path)
    (row,) = report(subject).rows
    content = {
        "name": path.name,
        "format": row.format,
        "size": path.stat().st_size if is_keras(path) else row.size,
        "gzip_size": row.gzip_size,
        "macs": row.macs,
        "sparsity": row.sparsity,
        "integer_coverage": row.integer_coverage,
        "layers": [dataclasses.asdict(layer) for layer in row.layers],
    }
    if is_keras(path):
        return {**content, **_of_model(subject)}
    return {
        **content,
        "inputs": [dataclasses.asdict(info) for info in subject.inputs],
        "outputs": [dataclasses.asdict(info) for info in subject.outputs],
        "operators": [dataclasses.asdict(count) for count in subject.operators],
        **({"signatures": _signatures(subject)} if subject.signatures else {}),
    }


def _signatures(artifact: Any) -> list[dict[str, Any]]:
    return [dataclasses.asdict(one) for one in artifact.signatures]


def _of_model(model: Any) -> dict[str, Any]:
    from collections import Counter

    from tfcompress.core.graph import is_graph_model
    from tfcompress.core.select import walk
    from tfcompress.exporters.tracing import tensor_names

    kinds = Counter(type(layer).__name__ for _, layer in walk(model))
    counts = [{"name": name, "count": count} for name, count in kinds.most_common()]
    names = tensor_names(model) if is_graph_model(model) else ([], [])
    tensors = {
        side: [
            {"name": name, "shape": list(t.shape), "dtype": t.dtype}
            for name, t in zip(given, getattr(model, side, None) or ())
        ]
        for side, given in zip(("inputs", "outputs"), names)
    }
    return {**tensors, "operators": counts}


def _text(content: dict[str, Any]) -> str:
    from tfcompress.core.tables import table

    lines = [f"{content['name']} ({content['format']})", ""]
    for label, name, unit in (
        ("size", "size", " bytes"),
        ("gzip", "gzip_size", " bytes"),
        ("packed", "packed_size", " bytes"),
        ("MACs", "macs", ""),
    ):
        if content.get(name) is not None:
            lines.append(f"{label}: {content[name]:,}{unit}")
    for label, name in (("zeros", "sparsity"), ("in integers", "integer_coverage")):
        if content.get(name) is not None:
            lines.append(f"{label}: {content[name]:.1%}")
    for one in content.get("signatures") or [content]:
        lines += [f"signature: {one['name']}"] if one is not content else []
        lines += _tensors(one)
    if content["layers"]:
        rows = [
            (x["name"], f"{x['count']:,}", str(x["bits"]), f"{x['sparsity']:.1%}")
            for x in content["layers"]
        ]
        lines += ["", table(("weights", "count", "bits", "zeros"), rows)]
    if content["operators"]:
        operators = [
            (x["name"], " ".join(x.get("activations", ())), str(x["count"]))
            for x in content["operators"]
        ]
        lines += ["", table(("operator", "numbers", "count"), operators, names=2)]
    return "\n".join(lines)


def _tensors(content: dict[str, Any]) -> list[str]:
    lines = []
    for side in ("inputs", "outputs"):
        for tensor in content[side]:
            shape = "x".join("?" if n is None else str(n) for n in tensor["shape"])
            lines.append(f"{side[:-1]}: {tensor['name']} {shape} {tensor['dtype']}")
    return lines
