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
    from tfcompress.exporters.publishing import check_writable
    from tfcompress.trustworthiness import TrustThresholds

    import_modules(modules)
    limits = TrustThresholds.of(dict(map(_limit, require)))
    if require and (data is None or not trust):
        raise InvalidArgumentError(
            "Limits of trust need data.",
            received=f"--require {require[0]} without --data",
            expected="--data, and not --no-trust",
        )
    for file in filter(None, (html, png)):
        check_writable(file)
    subjects = [load_subject(path) for path in (baseline, *artifacts)]
    given: dict[str, Any] = {"packed": packed}
    if data is not None:
        inputs, labels = labelled(read_data(data, subjects, pixels))
        with working("Comparing answers"):
            if trust:
                given["trust"] = _trust(subjects, inputs, labels, limits)
            given["evaluate"] = _evaluate(subjects[0], inputs, labels)
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


def _limit(text: str) -> tuple[str, float]:
    name, value = named_value(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentError(
            "A limit of trust is no number.",
            received=f"--require {text}",
            expected="name=number, such as --require min_agreement=0.98",
        )
    return name, value


def _trust(subjects: list[Any], inputs: Any, labels: Any, limits: Any) -> Any:
    import tfcompress

    try:
        return tfcompress.trust(subjects[0], subjects[-1], inputs, labels, limits)
    except InvalidArgumentError as error:
        # It is measured unless told otherwise, also of what it is not made for.
        raise InvalidArgumentError(f"{error} --no-trust leaves trust out.") from error


def _evaluate(baseline: Any, inputs: Any, labels: Any) -> Any:
    """Returns what gives the accuracy of a row; None, and a message, if there is none.

    Whether labels are classes does not differ from row to row: the baseline says it.
    """
    from tfcompress.trustworthiness.predictions import accuracy

    try:
        accuracy(baseline, inputs, labels)
    except InvalidArgumentError as error:
        text = f"No accuracy: {error}"
        messages.print(text, markup=False, highlight=False, soft_wrap=True)
        return None
    return lambda predict: accuracy(predict, inputs, labels)
