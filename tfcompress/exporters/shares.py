"""Which share of an artifact's work a runtime does on integers, as it says itself."""

from __future__ import annotations

from pathlib import Path

from tfcompress.child.probing import reading
from tfcompress.child.process import WORKER, ConverterFailure
from tfcompress.core.ownership import scratch


def share_in_integers(path: Path, script: str) -> float | None:
    """Returns the share of multiply-accumulates that are done on integers.

    Args:
        path: the file.
        script: the jobs of its format, among them "integers".

    Returns:
        The share, of this machine; None if there are none, or it cannot be known.
    """
    with scratch() as folder:
        output = str(Path(folder) / "graph")
        job = {"job": "integers", "script": script, "output": output}
        try:
            return WORKER.run({**reading(path), **job})["share"]
        except ConverterFailure:
            return None
