"""tfcompress verify"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tfcompress.cli.app import (
    FAILED,
    Json,
    Modules,
    Pixels,
    app,
    in_options,
    show,
    working,
)
from tfcompress.cli.inputs import (
    DATA_HELP,
    import_modules,
    load_subject,
    only_inputs,
    read_data,
)


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="What was exported.")],
    reference: Annotated[
        Path, typer.Argument(help="The model it should equal: the finalized one.")
    ],
    inputs: Annotated[str, typer.Option(help=f"Real inputs: {DATA_HELP}")],
    samples: Annotated[int, typer.Option(min=1, help="How many of them.")] = 256,
    max_abs_error: Annotated[
        float | None, typer.Option(help="None: a step of integers, 1e-5 of floats.")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Least share of equal classes, 0 to 1.")
    ] = None,
    min_integer_coverage: Annotated[
        float | None, typer.Option(help="Least share of the work in integers, 0 to 1.")
    ] = None,
    signature: Annotated[
        str | None, typer.Option(help="Which of several; else the first.")
    ] = None,
    pixels: Pixels = None,
    modules: Modules = [],  # noqa: B006  (typer reads it)
    as_json: Json = False,
) -> None:
    """Compare an artifact with its model on real samples; ends with 1 if they differ.

    The model is what was exported: of compressed ones not the float model, but the one
    that `export --save-finalized` writes.

    Example: tfcompress verify m.tflite final.keras --inputs test.npz
    """
    from tfcompress.exporters.artifact import Artifact
    from tfcompress.verification import verify as compare

    import_modules(modules)
    written = Artifact.read(artifact)
    expected = load_subject(reference)
    data = read_data(inputs, [expected], pixels, samples)
    found = only_inputs(data, samples, expected)
    with working("Running both"):
        result = compare(
            written,
            expected,
            found,
            max_abs_error,
            min_agreement,
            min_integer_coverage,
            signature,
        )
    show(in_options(str(result)), as_json, result.to_json())
    if not result.passed:
        raise typer.Exit(FAILED)
