"""Runs a file once in the child process, where a crash takes nothing with it."""

import importlib.util
from pathlib import Path
from typing import Any

from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.errors import ArtifactError, ExportError

#: What a file may take in the child process before it is refused: seconds of processor
#: time, and bytes of memory beyond eight times its size.
CPU_SECONDS = 120
MEMORY = 4 << 30
#: What a file of a stranger may take by the clock: one may wait for ever, and use no
#: processor.
WALL_SECONDS = 120


def probe(path: Path, runtime: str, kind: type = ArtifactError, **job: Any) -> dict:
    """Runs the model at `path` once in the worker and returns the worker's reply.

    Args:
        path: the file or directory.
        runtime: what runs it, for messages: "LiteRT".
        kind: `ExportError` for what was just converted, `ArtifactError` for what was
            found on disk.
        **job: the worker's job, where it is not "probe".

    Raises:
        ExportError: or `ArtifactError`, if it does not load or run.
    """
    try:
        limits = reading(path)
        if kind is ExportError:
            # What was just made is slow at worst.
            del limits["wall_seconds"]
        return WORKER.run({"job": "probe", **job, **limits})
    except ConverterFailure as failure:
        if kind is ExportError:
            raise failure.as_error(
                f"The converter's file does not run in {runtime}.",
                "replace the layer that it names, or use another format",
            ) from None
        error = kind(
            f"The {path.suffix or 'model'} file does not run in {runtime}.",
            received=f"{path} ({failure.reason})",
            expected=f"a whole file that {runtime} can run",
            fix="export the model again, or copy the file again",
        )
        error.log = failure.log
        raise error from None


def reading(path: Path) -> dict[str, Any]:
    """Returns what a job says that reads a file or directory nobody vouches for."""
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return {
        "path": str(path.absolute()),
        "cpu_seconds": CPU_SECONDS,
        "memory": MEMORY + 8 * size,
        "wall_seconds": WALL_SECONDS,
    }


def require(package: str, extra: str) -> None:
    """Raises `ExportError` if a package of an extra is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ExportError(
            f"The package {package!r} is needed for this.",
            received="an environment without it",
            expected=f"{package}, which comes with the extra {extra!r}",
            fix=f"pip install 'tfcompress[{extra}]'",
        )
