"""Progress of a search in the terminal: trials done, time left, what is going on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# How long a log that goes on may say nothing, in seconds.
_SILENCE = 60.0


@contextlib.contextmanager
def each_minute(say: Callable[[float], None]) -> Iterator[None]:
    """Calls `say` each minute with the seconds that have gone by, until all is done."""
    begin, done = time.monotonic(), threading.Event()

    def wait() -> None:
        while not done.wait(_SILENCE):
            say(time.monotonic() - begin)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Progress:
    """A bar of trials with the time that is left; says nothing when it is off.

    In a file (a log of a cluster, of nohup) it is a line for each thing that is begun,
    and each minute one that it goes on.

    Args:
        shown: whether there is anything to see.
    """

    def __init__(self, shown: bool):
        self._bar: Any = None
        self._log: Any = None
        self._said = ""
        self._begin = time.monotonic()
        self._reminder = contextlib.ExitStack()
        if shown:
            from rich import progress
            from rich.console import Console

            console = Console(stderr=True)
            if not console.is_terminal:
                self._log = console
                return
            self._bar = progress.Progress(
                progress.TextColumn("[bold]compress"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}"),
                console=console,
            )
            self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        if self._log is not None:
            self._reminder.enter_context(each_minute(lambda _: self._print()))
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._reminder.close()

    def say(self, text: str) -> None:
        """Shows what is being done."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        self._line(text)

    @contextlib.contextmanager
    def steps(self, text: str) -> Iterator[Callable[[int, int], None]]:
        """Shows a bar for one thing, moved by what this gives: `step(done, total)`.

        A log has a line when it begins, and each minute one of how far it is.
        """
        self.say(text)
        task = None if self._bar is None else self._bar.add_task(text, total=None)

        def step(done: int, total: int) -> None:
            if self._bar is not None:
                self._bar.update(task, completed=done, total=total)
            self._said = f"{text}, {done} of {total}"

        try:
            yield step
        finally:
            if self._bar is not None:
                self._bar.remove_task(task)

    def count(self, done: int, total: int) -> None:
        """Shows how many trials are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        self._line(f"{done} of {total} candidates")

    def _line(self, text: str) -> None:
        if self._log is not None and text != self._said:
            self._said = text
            self._print()

    def _print(self) -> None:
        seconds = time.monotonic() - self._begin
        line = f"compress [{seconds:.0f} s] {self._said}"
        self._log.print(line, markup=False, highlight=False)
