"""tfcompress report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress.cli.app import (
    FAILED,
    Json,
    Modules,
    Pixels,
    app,
    messages,
    show,
    working,
)
from tfcompress.cli.inputs import (
    DATA_HELP,
    import_modules,
    labelled,
    load_subject,
    named_value,
    read_data,
)
from tfcompress.core.errors import InvalidArgumentError


@app.command()
def report(
    baseline: Annotated[Path, typer.Argument(help="What all others are held against.")],
    artifacts: Annotated[list[Path], typer.Argument(help="Models and artifacts.")],
    data: Annotated[
        str | None, typer.Option(help=f"For accuracy, latency and trust: {DATA_HELP}")
    ] = None,
    trust: Annotated[
        bool, typer.Option(help="What changed besides the size; needs --data.")
    ] = True,
    require: Annotated[
        list[str],
        typer.Option(help="A limit of trust, min_agreement=0.98; may be repeated."),
    ] = [],  # noqa: B006  (typer reads it)
    packed: Annotated[bool, typer.Option(help="Packed sizes too.")] = True,
    html: Annotated[Path | None, typer.Option(help="Write one page here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write one picture here.")] = None,
    pixels: Pixels = None,
    modules: Modules = [],  # noqa: B006  (typer reads it)
    as_json: Json = False,
) -> None:
    """Put sizes, zeros, accuracy and latency side by side, and draw them.

    Trust compares the last artifact with the baseline; ends with 1 if a required limit
    is not met.

    Example: tfcompress report m.keras m.tflite --data test.npz --html report.html
    """
    import tfcompress

    import_modules(modules)
    limits = {name: float(value) for name, value in map(named_value, require)}
    if limits and (data is None or not trust):
        raise InvalidArgumentError(
            "Limits of trust need data.",
            received=f"--require {require[0]} without --data",
            expected="--data, and not --no-trust",
        )
    subjects = [load_subject(path) for path in (baseline, *artifacts)]
    given: dict[str, Any] = {"packed": packed}
    if data is not None:
        inputs, labels = labelled(read_data(data, subjects, pixels))
        with working("Comparing answers"):
            if trust:
                given["trust"] = tfcompress.trust(
                    subjects[0], subjects[-1], inputs, labels, limits
                )
        given["evaluate"] = lambda predict: _accuracy(predict(inputs), labels)
        given["latency_inputs"] = inputs
    with working("Measuring"):
        made = tfcompress.report(*subjects, **given)
    for path, write in ((html, made.to_html), (png, made.to_png)):
        if path is not None:
            write(path)
            messages.print(f"The report is {path}", highlight=False)
    show(made.to_markdown(), as_json, made.to_json())
    if trust and data is not None and not given["trust"].passed:
        raise typer.Exit(FAILED)


def _accuracy(outputs: Any, labels: Any) -> float:
    import numpy as np

    labels = np.asarray(labels)
    labels = labels.argmax(-1) if labels.ndim > 1 and labels.shape[-1] > 1 else labels
    return float(np.mean(np.argmax(outputs, -1) == labels.reshape(-1)))
