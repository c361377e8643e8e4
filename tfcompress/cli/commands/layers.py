"""tfcompress layers"""

from __future__ import annotations

from typing import Annotated

import typer

from tfcompress.cli.app import Json, Modules, app, show
from tfcompress.cli.inputs import import_modules


@app.command()
def layers(
    operations: Annotated[
        bool, typer.Option(help="Operations of keras.ops too.")
    ] = False,
    modules: Modules = [],  # noqa: B006  (typer reads it)
    as_json: Json = False,
) -> None:
    """Print what is known of each layer type: what can be pruned, shrunk, quantized.

    Example: tfcompress layers --import my_layers
    """
    import tfcompress
    from tfcompress.core.tables import table

    import_modules(modules)
    rows = tfcompress.layer_table(operations)
    headings = list(rows[0])
    cells = [list(row.values()) for row in rows]
    show(table(headings, cells, names=len(headings)), as_json, rows)
