"""tfcompress compress"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress.cli.app import FAILED, Json, Modules, Pixels, app, messages, show
from tfcompress.cli.inputs import (
    DATA_HELP,
    import_modules,
    labelled,
    load_model,
    read_data,
)
from tfcompress.core.errors import InvalidArgumentError

_LIMIT = "a number, '250 kB', or a share of the baseline's such as '25%'"


@app.command()
def compress(
    model: Annotated[Path, typer.Argument(help="A compiled and trained .keras file.")],
    train: Annotated[str, typer.Option(help=f"Training data: {DATA_HELP}")],
    validation: Annotated[str, typer.Option(help="Likewise, to choose on.")],
    max_bytes: Annotated[
        str | None, typer.Option(help=f"Of the files: {_LIMIT}.")
    ] = None,
    max_packed_bytes: Annotated[
        str | None, typer.Option(help="Likewise, after packing.")
    ] = None,
    max_latency_ms: Annotated[
        str | None, typer.Option(help="Of one call here: a number, or a share.")
    ] = None,
    max_metric_drop: Annotated[
        float | None, typer.Option(help="In units of the metric, such as 0.01.")
    ] = None,
    max_cycles: Annotated[
        str | None, typer.Option(help="Of the NPU: a number, or a share.")
    ] = None,
    max_sram: Annotated[
        str | None, typer.Option(help=f"Of the NPU's system: {_LIMIT}.")
    ] = None,
    npu: Annotated[
        str | None, typer.Option(help="For which NPU, such as u55-128.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Where it shall run.")] = None,
    recipe: Annotated[
        str, typer.Option(help="auto, a file, or phone, microcontroller, server ...")
    ] = "auto",
    metric: Annotated[
        str | None,
        typer.Option(help="A compiled metric; `name:max` says what is better."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Candidates to build.")] = 8,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs, all candidates together; else the data tell."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Time for all of it.")] = None,
    output: Annotated[
        Path, typer.Option(help="Directory; the same one again resumes.")
    ] = Path("compressed"),
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    test: Annotated[
        str | None, typer.Option(help="Data for the report's part on trust.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report here, as one page.")
    ] = None,
    save_recipe: Annotated[
        Path | None, typer.Option(help="Write the recipe of the best candidate here.")
    ] = None,
    pixels: Pixels = None,
    modules: Modules = [],  # noqa: B006  (typer reads it)
    as_json: Json = False,
) -> None:
    """Make a trained model fit a budget; ends with 1 if no candidate does.

    Example: tfcompress compress m.keras --train train.npz --validation valid.npz
    --max-bytes '250 kB' --max-metric-drop 0.01 --html report.html
    """
    import tfcompress
    from tfcompress.exporters.publishing import check_writable

    import_modules(modules)
    budget = tfcompress.Budget(
        max_bytes,
        max_packed_bytes,
        _number(max_latency_ms),
        max_metric_drop,
        max_cycles,
        max_sram,
        npu,
    )
    search = tfcompress.Search(
        trials, epochs, minutes, str(output), seed=seed, verbose=int(not as_json)
    )
    loaded = load_model(model, compiled=True)
    # What could be refused after the search is tried before it.
    for path in filter(None, (html, save_recipe)):
        check_writable(path)
    judged = () if test is None else _judged(test, loaded, pixels, html)
    name, _, direction = (metric or "").partition(":")
    result = tfcompress.compress(
        loaded,
        read_data(train, [loaded], pixels),
        read_data(validation, [loaded], pixels),
        budget,
        target,
        recipe,
        (name, direction) if direction else name or None,
        search,
    )
    show(str(result), as_json, result.to_json())
    messages.print(f"The artifact is {result.artifact.path}", highlight=False)
    if save_recipe is not None:
        result.recipe.save(save_recipe)
    if html is not None:
        result.report(*judged).to_html(html)
        messages.print(f"The report is {html}", highlight=False)
    if not result.met:
        raise typer.Exit(FAILED)


def _judged(
    test: str, model: Any, pixels: str | None, html: Path | None
) -> tuple[Any, Any]:
    """Returns inputs and labels that trust can be measured on."""
    from tfcompress.trustworthiness.pair import Pair
    from tfcompress.trustworthiness.settings import TrustSettings

    if html is None:
        raise InvalidArgumentError(
            "Data for trust are for the report.",
            received="--test without --html",
            expected="--html with a path for the report too",
        )
    inputs, labels = labelled(read_data(test, [model], pixels))
    Pair(model, model, None, inputs, labels, TrustSettings())
    return inputs, labels


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
