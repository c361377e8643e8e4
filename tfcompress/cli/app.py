"""The application that commands add themselves to, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tfcompress.cli.pixels import PIXELS_HELP
from tfcompress.core.errors import CompressionError

# Results go to standard output, all else to standard error: `--json | jq` works.
output = Console()
messages = Console(stderr=True)

# A check was made and failed: a budget was missed, an artifact differs, a layer will
# not deploy. A user's mistake is 2, as for any command.
FAILED, MISTAKE = 1, 2

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

Modules = Annotated[
    list[str], typer.Option("--import", help="Module with your own layers.")
]

Pixels = Annotated[str | None, typer.Option("--pixels", help=PIXELS_HELP)]

_ARGUMENT = re.compile(r"`(\w+)=([^`]+)`")


class _Commands(typer.core.TyperGroup):
    """The commands; their errors say arguments of Python as options."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except CompressionError as error:
            # They are written for callers of functions.
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            known = {one.name: one for one in getattr(command, "params", ())}
            text = _ARGUMENT.sub(lambda said: _as_option(said, known), str(error))
            error.args = (text,)
            raise


def _as_option(said: re.Match[str], known: dict[str, Any]) -> str:
    """Returns `name=value` of Python as it is said on the command line."""
    name, value = said[1], said[2].strip("\"'")
    if name in known:
        option = max(known[name].opts, key=len)
        return f"`{option}`" if value == "True" else f"`{option} {value}`"
    if "option" in known and name in _format_options():
        value = value.lower() if value in ("True", "False", "None") else value
        return f"`--option {name}={value}`"
    return said[0]  # an argument of a layer, or of something else


def _format_options() -> set[str]:
    from tfcompress.exporters.artifact import EXPORTERS

    formats = map(EXPORTERS.get, EXPORTERS.names())
    return {field.name for one in formats for field in dataclasses.fields(one)}


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make Keras models smaller and faster, prove it, and ship them.\n\n"
    "Exit codes: 0 all is well; 1 a check failed (budget, parity, deployment); "
    "2 a mistake in what was asked for.",
)


@app.callback(invoke_without_command=True)  # --version is no command
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.")
    ] = False,
) -> None:
    if version:
        import importlib.metadata

        output.print(importlib.metadata.version("tfcompress"))
        raise typer.Exit


def main() -> None:
    """Runs the command; a user's mistake ends in one message and exit code 2."""
    try:
        app()
    except CompressionError as error:
        messages.print("[red]Error:[/red]", end=" ")
        messages.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(MISTAKE) from error


def show(text: Any, as_json: bool, content: Any = None) -> None:
    """Prints a result: the text, or `content` (a JSON text or what makes one)."""
    if not as_json:
        output.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    found = content if isinstance(content, str) else json.dumps(content, default=str)
    sys.stdout.write(json.dumps(json.loads(found), indent=2) + "\n")


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Shows that something is being done, and for how long."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=messages, transient=True) as progress:
        progress.add_task(text, total=None)
        yield
