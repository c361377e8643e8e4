"""The application that commands add themselves to, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tfcompress.cli.pixels import PIXELS_HELP
from tfcompress.cli.quiet import load_tensorflow
from tfcompress.cli.units import with_units
from tfcompress.core.errors import CompressionError, CompressionWarning

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

# Those of the command that runs, by their names in Python.
_parameters: dict[str, Any] = {}

# `name=value`, in a message for callers of functions; `name` alone.
_ARGUMENT = re.compile(
    r"""`(\w+)(?:=([^`]+))?`|(?<![\w.-])(\w+)=("[^"]*"|'[^']*'|True|False|None)"""
)


# Functions that are commands too.
_FUNCTION = re.compile(
    r"`tfcompress\.(benchmark|compress|doctor|export|pack|report|unpack|verify)`"
)


class _Command(typer.core.TyperCommand):
    """A command; its errors say arguments of Python as options."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        load_tensorflow()
        _parameters.clear()
        _parameters.update({one.name: one for one in self.params})
        try:
            return super().invoke(ctx)
        except CompressionError as error:
            error.args = (in_options(str(error)),)
            raise


class _Commands(typer.Typer):
    """The commands."""

    def command(self, *args: Any, **options: Any) -> Any:
        """Adds one."""
        return super().command(*args, cls=_Command, **options)


def in_options(text: str) -> str:
    """Returns a message, which is written for callers of functions, for the command."""
    text = _ARGUMENT.sub(lambda said: _as_option(said, _parameters), text)
    return _FUNCTION.sub(r"`tfcompress \1`", text)


def _as_option(said: re.Match[str], known: dict[str, Any]) -> str:
    """Returns `name=value` of Python as it is said on the command line."""
    name, value = said[1] or said[3], said[2] or said[4]
    option = known.get(name)
    # A flag alone may be the function of its name.
    flag = option is not None and value is None and option.is_flag
    if option is not None and option.param_type_name == "option" and not flag:
        words = [max(option.opts, key=len)]
        if value is not None and not option.is_flag:
            words.append(value.strip("\"'"))
        return f"`{' '.join(words)}`"
    if value is not None and "option" in known and name in _format_options():
        value = value.strip("\"'")
        value = value.lower() if value in ("True", "False", "None") else value
        return f"`--option {name}={value}`"
    return said[0]  # an argument of a layer, or of something else


def _format_options() -> set[str]:
    from tfcompress.exporters.artifact import EXPORTERS

    formats = map(EXPORTERS.get, EXPORTERS.names())
    return {field.name for one in formats for field in dataclasses.fields(one)}


app = _Commands(
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
        with _our_warnings():
            app()
    except CompressionError as error:
        messages.print("[red]Error:[/red]", end=" ")
        messages.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(MISTAKE) from error


@contextlib.contextmanager
def _our_warnings() -> Iterator[None]:
    """Prints warnings of tfcompress as messages, without a place in its source."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def say(
            message: Any, category: type[Warning], *where: Any, **more: Any
        ) -> None:
            if not issubclass(category, CompressionWarning):
                others(message, category, *where, **more)
                return
            messages.print("[yellow]Warning:[/yellow]", end=" ")
            text = in_options(str(message))
            messages.print(text, markup=False, highlight=False, soft_wrap=True)

        warnings.showwarning = say
        yield


def show(text: Any, as_json: bool, content: Any = None) -> None:
    """Prints a result: the text, or `content` (a JSON text or what makes one)."""
    if not as_json:
        output.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    found = content if isinstance(content, str) else json.dumps(content, default=str)
    sys.stdout.write(json.dumps(with_units(json.loads(found)), indent=2) + "\n")


@contextlib.contextmanager
def working(text: str) -> Iterator[Callable[[int, int], None]]:
    """Shows that something is being done, and for how long; in a log each minute.

    What it yields takes how much is done, and of how much, and may be left alone.
    """
    done = ""

    def tell(count: int, total: int) -> None:
        nonlocal done
        done = f" {100 * count // max(total, 1)} %"
        for task in bar.task_ids:
            bar.update(task, description=text + done)

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    bar = Progress(*columns, console=messages, transient=True)
    if not messages.is_terminal:
        from tfcompress.compression.progress import each_minute

        def say(seconds: float) -> None:
            line = f"{text}{done} [{seconds:.0f} s]"
            messages.print(line, markup=False, highlight=False, soft_wrap=True)

        with each_minute(say):
            yield tell
        return
    with bar:
        bar.add_task(text, total=None)
        yield tell
