"""tfcompress doctor"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfcompress.cli.app import FAILED, Json, Modules, app, output, show, working
from tfcompress.cli.inputs import (
    import_modules,
    is_keras,
    load_subject,
    named_value,
)
from tfcompress.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tfcompress.diagnosis import Diagnosis


@app.command()
def doctor(
    model: Annotated[
        Path, typer.Argument(help="A .keras or .h5 file, or an artifact.")
    ],
    format: Annotated[
        str | None, typer.Option(help="Where it shall run.", show_default="tflite")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="Bits, such as w8a8; none for float.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Ask about every target, in one table.")
    ] = False,
    trial: Annotated[bool, typer.Option(help="Try an export too.")] = True,
    option: Annotated[
        list[str], typer.Option(help="name=value of the format; may be repeated.")
    ] = [],  # noqa: B006  (typer reads it)
    modules: Modules = [],  # noqa: B006  (typer reads it)
    as_json: Json = False,
) -> None:
    """Tell before training what of a model will not run where it is to live.

    Ends with 1 if something will not; with --all, if it will run nowhere.

    Example: tfcompress doctor model.keras --format micro --scheme w8a8

    Example: tfcompress doctor model.keras --format ethos_u --scheme w8a8
    --option npu=u85-256
    """
    from tfcompress.diagnosis import doctor as diagnose
    from tfcompress.diagnosis import doctor_all

    import_modules(modules)
    options = dict(map(named_value, option))
    if every and (options or not is_keras(model)):
        raise InvalidArgumentError(
            "All targets are asked about for a Keras model, as they are.",
            received=f"--option {option[0]}" if options else str(model),
            expected="--all with a .keras or .h5 file and no --option",
        )
    if every and format is not None:
        raise InvalidArgumentError(
            "--all asks about every target, and not about one.",
            received=f"--format {format}",
            expected="either --all or --format",
        )
    loaded = load_subject(model)
    if every:
        with working("Trying an export to every target"):
            targets = doctor_all(loaded, scheme, trial)
        diagnoses = {n: _content(one) for n, one in targets.diagnoses.items()}
        if as_json:
            show(targets, as_json, diagnoses)
        else:  # which wraps its own cells, and would cut them in `show`
            output.print(targets)
        if not targets.deployable:
            raise typer.Exit(FAILED)
        return
    with working("Looking at layers, and trying an export"):
        found = diagnose(loaded, format or "tflite", scheme, trial, **options)
    show(str(found), as_json, _content(found))
    if not found.deployable:
        raise typer.Exit(FAILED)


def _content(found: Diagnosis) -> dict[str, Any]:
    return {**dataclasses.asdict(found), "deployable": found.deployable}
