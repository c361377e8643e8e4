"""Progress of a search in the terminal: trials done, time left, what is going on."""

from __future__ import annotations

from typing import Any


class Progress:
    """A bar of trials with the time that is left; says nothing when it is off.

    Args:
        shown: whether there is anything to see.
    """

    def __init__(self, shown: bool):
        self._bar: Any = None
        if shown:
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("[bold]compress"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Shows what is being done."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def count(self, done: int, total: int) -> None:
        """Shows how many trials are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
