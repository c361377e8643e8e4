"""Runs converter jobs in a child process that is started once and used again."""

import atexit
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

from tfcompress.core.errors import ExportError

# The worker is a plain script run with the parent's own search path: neither the
# working directory nor the user's `__main__` has any part in it.
_BOOTSTRAP = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "runpy.run_path(sys.argv[2], run_name='__main__')"
)
_SCRIPT = Path(__file__).with_name("_worker.py")
_LOCATION = re.compile(r'fused\["[^"]*", "([^"@]+)@')


class ConverterFailure(Exception):
    """A job failed in the worker; the caller turns this into its own error.

    Args:
        reason: one line that says what went wrong.
        log: everything the worker printed during the job.
        died: whether the worker process itself is gone.
        message: the whole text of the error that was raised in the worker.
    """

    def __init__(self, reason: str, log: str, died: bool = False, message: str = ""):
        super().__init__(reason)
        self.reason, self.log, self.died = reason, log, died
        self.message = message or reason

    def as_error(
        self, problem: str, fix: str, expected: str | None = None
    ) -> ExportError:
        """Returns an `ExportError` that carries the log as its `log` attribute."""
        error = ExportError(
            problem,
            received=self.reason,
            expected=expected,
            fix=f"{fix} (the converter's full log is this error's `log` attribute)",
        )
        error.log = self.log
        return error


class ConverterProcess:
    """One worker process, started lazily and restarted when it died."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None
        self._warm = False
        self._owner = 0
        self._next_id = 0
        self._accepted = 0

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None while there is none."""
        return self._process.pid if self._alive() and self._process else None

    def warm_up(self) -> None:
        """Starts the worker importing TensorFlow and returns without waiting."""
        with self._lock:
            if not (self._alive() and self._warm):
                # A failure shows again, and is told, when the conversion itself starts.
                with contextlib.suppress(OSError, ConverterFailure):
                    self._send({"job": "warm"})
                    self._warm = True

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Sends one job and waits for its reply.

        Raises:
            ConverterFailure: if the job failed or the worker died.
        """
        with self._lock:
            if not self._alive():
                self._start()
            start = self._log_size()
            try:
                reply = self._ask(job)
            except (OSError, EOFError) as error:
                reason = self._obituary()
                log = self._log_text(start)
                self.close()
                raise ConverterFailure(reason, log, died=True) from error
            except BaseException:
                # Interrupted halfway: the reply would answer the wrong question.
                self.close()
                raise
            if reply["ok"]:
                return reply
            reason = f"{reply['type']}: {_relevant_line(reply['error'])}"
            raise ConverterFailure(
                reason, self._log_text(start), message=reply["error"]
            )

    def close(self) -> None:
        """Ends the worker."""
        process, self._process = self._process, None
        log, self._log = self._log, None
        if log is not None:
            log.close()
        if process is None or os.getpid() != self._owner:
            return
        with contextlib.suppress(OSError):
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()

    def _alive(self) -> bool:
        # A forked child must not talk over its parent's pipes.
        if self._process is not None and self._owner != os.getpid():
            self._process, self._log = None, None
        return self._process is not None and self._process.poll() is None

    def _start(self) -> None:
        self.close()
        # No GPU: converting needs none, and the training process owns its memory.
        environment = {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        # Warnings are errors for the user's code, not for TensorFlow's import.
        environment.pop("PYTHONWARNINGS", None)
        search_path = [os.path.abspath(entry) for entry in sys.path if entry]
        self._owner, self._warm = os.getpid(), False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives with the worker
        command = [sys.executable, "-c", _BOOTSTRAP]
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(search_path), str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env=environment,
                # Ctrl-C is for the parent, which then ends the worker itself.
                start_new_session=True,
            )
        except OSError as error:
            reason = f"the converter process could not be started: {error}"
            raise ConverterFailure(reason, "", died=True) from error

    def _send(self, job: dict[str, Any]) -> int:
        if not self._alive():
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._next_id += 1
        self._process.stdin.write(json.dumps({**job, "id": self._next_id}) + "\n")
        self._process.stdin.flush()
        return self._next_id

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._receive(self._send(job))
        except (OSError, EOFError):
            if self._accepted == self._next_id:
                raise
            # It was dead before it saw the job, so the job is not to blame.
            self._start()
            return self._receive(self._send(job))

    def _receive(self, number: int) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            if not line.endswith("\n"):
                raise EOFError
            reply = json.loads(line)
            if reply["id"] == number:
                if not reply.get("accepted"):
                    return reply
                self._accepted = number

    def _obituary(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the converter process stopped answering"
        if code < 0:
            name = signal.Signals(-code).name
            return f"the converter process was killed by {name}"
        return f"the converter process ended with exit code {code}"

    def _log_size(self) -> int:
        return os.fstat(self._log.fileno()).st_size if self._log else 0

    def _log_text(self, start: int) -> str:
        if self._log is None:
            return ""
        # pread leaves the offset alone, which the worker shares and writes at.
        size = self._log_size() - start
        data = os.pread(self._log.fileno(), max(size, 0), start)
        return data.decode("utf-8", "replace")


def _relevant_line(message: str) -> str:
    """Returns the one line that says why, and the layer it is about."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    # The first error is the cause; what follows it are passes that gave up.
    line = errors[0].rsplit("error:", 1)[1].strip() if errors else (lines or [""])[-1]
    place = _LOCATION.search(errors[0]) if errors else None
    if place:
        line += f" (in {place.group(1)})"
    return line if len(line) <= 300 else line[:300] + " ..."


WORKER = ConverterProcess()
atexit.register(WORKER.close)
