"""tfcompress doctor"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from tfcompress.cli.app import FAILED, Json, Modules, app, show, working
from tfcompress.cli.inputs import import_modules, load_subject, named_value


@app.command()
def doctor(
    model: Annotated[
        Path, typer.Argument(help="A .keras or .h5 file, or an artifact.")
    ],
    format: Annotated[str, typer.Option(help="Where it shall run.")] = "tflite",
    scheme: Annotated[
        str | None, typer.Option(help="Bits, such as w8a8; none for float.")
    ] = None,
    trial: Annotated[bool, typer.Option(help="Try an export too.")] = True,
    option: Annotated[
        list[str], typer.Option(help="name=value of the format; may be repeated.")
    ] = [],  # noqa: B006  (typer reads it)
    modules: Modules = [],  # noqa: B006  (typer reads it)
    as_json: Json = False,
) -> None:
    """Tell before training what of a model will not run where it is to live.

    Ends with 1 if something will not.

    Example: tfcompress doctor model.keras --format micro --scheme w8a8

    Example: tfcompress doctor model.keras --format ethos_u --scheme w8a8
    --option npu=u85-256
    """
    from tfcompress.diagnosis import doctor as diagnose

    import_modules(modules)
    options = dict(map(named_value, option))
    loaded = load_subject(model)
    with working("Looking at layers, and trying an export"):
        found = diagnose(loaded, format, scheme, trial, **options)
    content = {**dataclasses.asdict(found), "deployable": found.deployable}
    show(str(found), as_json, content)
    if not found.deployable:
        raise typer.Exit(FAILED)
