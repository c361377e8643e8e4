"""The `tfcompress` command."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tfcompress.core.errors import CompressionError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make Keras models smaller and faster, prove that nothing broke, ship them.",
)


@app.callback()
def _commands() -> None:
    """Keeps `demo` a command of its own while it is the only one."""


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(help="Directory for artifacts, report and figures.")
    ] = Path("tfcompress-demo"),
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Few images and epochs, under a minute.")
    ] = False,
) -> None:
    """Distil, prune and quantize a model in one fit, ship it twice and check it.

    Uses Fashion-MNIST if it can be had, else scikit-learn's digits.

    Example: tfcompress demo --smoke
    """
    from tfcompress.demo import run

    run(output, smoke)


def main() -> None:
    """Runs the command; a user's mistake ends in one message and exit code 2."""
    try:
        app()
    except CompressionError as error:
        Console(stderr=True).print(f"[red]Error:[/red] {error}", highlight=False)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
