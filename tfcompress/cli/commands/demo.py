"""tfcompress demo"""

from pathlib import Path
from typing import Annotated

import typer

from tfcompress.cli.app import app


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(help="Directory for artifacts, report and figures.")
    ] = Path("tfcompress-demo"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Few images and epochs, about a minute.")
    ] = False,
) -> None:
    """Distil, prune and quantize a model in one fit, ship it twice and check it.

    Uses Fashion-MNIST if it can be had, else scikit-learn's digits.

    Example: tfcompress demo --smoke
    """
    from tfcompress.demo import run

    run(output, smoke)
