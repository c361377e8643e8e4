"""Files of strangers: they are run in the jailed child process, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfcompress.child.failure import SET_PYTHON
from tfcompress.child.probing import reading
from tfcompress.child.process import JAIL, ConverterFailure, ConverterProcess
from tfcompress.core.errors import ArtifactError
from tfcompress.exporters.artifact import Artifact
from tfcompress.exporters.runner import Runner


class JailedRunner(Runner):
    """Runs a file in the jailed child process, for its whole life.

    What a file does on zeros says nothing of what it does on other inputs: so one that
    may loop, or whose tensors have sizes that inputs say, never runs here. Each call
    has limits of time and memory; see docs/safety.md.

    Args:
        artifact: the file's description.
        file: what the runtime opens.
        runtime: what runs it, for messages: "LiteRT".
        script: the script of the format's jobs, of which "call" gets `path`, `threads`,
            `arrays` and `job`.
        threads: CPU threads; None leaves the choice to the runtime.
        **job: what else the job needs.
    """

    #: The process that runs it.
    process: ClassVar[ConverterProcess] = JAIL

    def __init__(
        self,
        artifact: Artifact,
        file: Path,
        runtime: str,
        script: str,
        threads: int | None = None,
        **job: Any,
    ):
        super().__init__(artifact.inputs, artifact.outputs)
        self.name, self.threads = artifact.name, threads
        self._file, self._runtime = file, runtime
        self._job = {
            **job,
            **reading(file),
            "job": "call",
            "script": script,
            "threads": threads,
            # Another file of the same name is opened anew.
            "stamp": _stamp(file),
            "outputs": [info.name for info in self.outputs],
        }

    def bind(self, batch: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
        """Returns a function that sends the batch and waits for the outputs."""

        def once() -> dict[str, np.ndarray]:
            try:
                reply = self.process.run(self._job, batch)
            except ConverterFailure as failure:
                if failure.died or not failure.started:
                    raise stopped(self._file, self._runtime, failure) from None
                raise ArtifactError(
                    f"The model does not run on these inputs in {self._runtime}.",
                    received=f"{self._file} ({failure.reason})",
                    expected="inputs that the model takes, and a whole file",
                    fix="check the values of the inputs",
                ) from None
            #: What the call took there, without the way.
            once.seconds = float(reply["seconds"])  # type: ignore[attr-defined]
            arrays = reply["arrays"]
            return {info.name: arrays[info.name] for info in self.outputs}

        return once


def open_in_jail(file: Path, runtime: str, script: str, **job: Any) -> dict[str, Any]:
    """Lets the jailed child process load a file, and returns what it says of it.

    Raises:
        ArtifactError: if it does not load, or not in time.
    """
    try:
        job = {"job": "open", **job, **reading(file), "script": script}
        return JAIL.run({**job, "stamp": _stamp(file)})
    except ConverterFailure as failure:
        raise stopped(file, runtime, failure) from None


def stopped(file: Path, runtime: str, failure: ConverterFailure) -> ArtifactError:
    """Returns the error for a file that the child process could not run to the end."""
    error = ArtifactError(
        f"The {file.suffix or 'model'} file does not run in {runtime}.",
        received=f"{file} ({failure.reason})",
        expected=f"a whole file that {runtime} can run within its limits of time and "
        "memory",
        fix="export the model again, or copy the file again; if you made it yourself, "
        "load(path, trusted=True) has no limits"
        if failure.started
        else SET_PYTHON,
    )
    error.log = failure.log
    return error


def _stamp(file: Path) -> list[Any]:
    paths = sorted(file.rglob("*")) if file.is_dir() else [file]
    return [
        [str(path), info.st_mtime_ns, info.st_size]
        for path in paths
        if path.is_file() and (info := path.stat())
    ]
