"""Runs converter jobs in a child process that is started once and used again."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tfcompress.child._arrays import packed, unpacked
from tfcompress.child.failure import ConverterFailure
from tfcompress.core.ownership import at_the_end, scratch_of_the_process

# The worker is a plain script run with the parent's own search path: neither the
# working directory nor the user's `__main__` has any part in it.
_BOOTSTRAP = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]) or sys.path[1:]; "
    "runpy.run_path(sys.argv[2], run_name='__main__')"
)
_SCRIPT = Path(__file__).with_name("_worker.py")
_LONGEST_LINE = 1 << 28
# What mostly is behind a signal, where the name does not say it.
_CAUSES = {
    "SIGKILL": ", which mostly means that the memory ran out",
    "SIGXCPU": " after all the processor time that it may take",
}
_LOCATION = re.compile(r'fused\["[^"]*", "([^"@]+)@')


class ConverterProcess:
    """One worker process, started lazily and restarted when it died.

    Args:
        jailed: whether it may write nowhere but in its own temporary folder, use no
            network and start no program, as far as the system can forbid that.
        variable: name of an environment variable that may hold another Python, for
            packages that do not go together with this environment's.
    """

    def __init__(self, jailed: bool = False, variable: str = "") -> None:
        self.jailed, self.variable = jailed, variable
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._log: IO[bytes] | None = None
        self._warm = False
        self._lifeline: int | None = None
        self._remove_scratch: Callable[[], None] | None = None
        self._owner = 0
        self._next_id = 0
        self._accepted = 0
        self._answered = False
        self._late = False

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

    def run(
        self, job: dict[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Sends one job and waits for its reply.

        Args:
            job: the job as JSON.
            arrays: NumPy arrays that go with it; those of a reply are in "arrays".

        Raises:
            ConverterFailure: if the job failed or the worker died.
        """
        with self._lock:
            if not self._alive():
                self._start()
            start = self._log_size()
            try:
                with self._deadline(job.get("wall_seconds")):
                    reply = self._ask(job, arrays)
            except (OSError, EOFError) as error:
                reason = self._obituary()
                log = self._log_text(start)
                started = self._answered
                self.close()
                raise ConverterFailure(reason, log, True, started=started) from error
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
        lifeline, self._lifeline = self._lifeline, None
        remove, self._remove_scratch = self._remove_scratch, None
        if log is not None:
            log.close()
        if lifeline is not None:
            with contextlib.suppress(OSError):
                os.close(lifeline)
        if process is not None:
            mine = os.getpid() == self._owner
            if mine:
                with contextlib.suppress(OSError):
                    process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            if mine:
                process.wait()
            else:
                # The parent waits for its child; here it is nobody's.
                process.returncode = 0
        if remove is not None:
            with contextlib.suppress(OSError):
                remove()

    def after_fork(self) -> None:
        """Forgets the worker in a forked process, which belongs to its parent.

        Another thread may have held the lock at the moment of the fork; it does not
        exist here, so nobody would ever release it.
        """
        self._lock = threading.RLock()
        self.close()

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @contextlib.contextmanager
    def _deadline(self, seconds: float | None) -> Iterator[None]:
        """Inside, the worker is killed after so many seconds of the clock."""
        self._late = False
        if seconds is None:
            yield
            return

        def kill() -> None:
            process = self._process
            self._late = True
            if process is not None:
                process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _start(self) -> None:
        self.close()
        # No GPU: converting needs none, and the training process owns its memory.
        environment = {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        if self.jailed:
            # Each thread would reserve addresses of its own, which are limited.
            environment["MALLOC_ARENA_MAX"] = "2"
        # Warnings are errors for the user's code, not for TensorFlow's import.
        environment.pop("PYTHONWARNINGS", None)
        search_path = [os.path.abspath(entry) for entry in sys.path if entry]
        executable = python()
        if another := os.environ.get(self.variable):
            # It has packages of its own.
            executable, search_path = another, []
            environment.pop("PYTHONPATH", None)
        self._owner, self._warm, self._answered = os.getpid(), False, False
        self._unread = b""
        ours = -1
        try:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives with the worker
            # What libraries leave in the temporary folder goes with the worker.
            folder, self._remove_scratch = scratch_of_the_process()
            environment["TMPDIR"] = folder
            # The worker ends when the other end of this pipe is closed, which a
            # process does that is gone, however it went.
            ours, self._lifeline = os.pipe()
            self._process = subprocess.Popen(
                [executable, "-c", _BOOTSTRAP]
                + [json.dumps(search_path), str(_SCRIPT), str(ours)]
                + ["jailed" if self.jailed else "free"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                # Unbuffered: a buffer has a lock, which a fork may find taken.
                bufsize=0,
                env=environment,
                pass_fds=(ours,) if os.name == "posix" else (),
                # Ctrl-C is for the parent, which then ends the worker itself.
                start_new_session=True,
            )
        except OSError as error:
            self.close()
            reason = f"{executable!r}: {error.strerror or error}"
            raise ConverterFailure(reason, "", died=True, started=False) from error
        finally:
            if ours >= 0:
                os.close(ours)

    def _send(
        self, job: dict[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> int:
        if not self._alive():
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._next_id += 1
        data: list[Any] = []
        if arrays is not None:
            entries, data = packed(arrays)
            job = {**job, "arrays": entries}
        data.insert(0, json.dumps({**job, "id": self._next_id}).encode() + b"\n")
        for part in data:
            left = memoryview(part)
            while left:
                left = left[os.write(self._process.stdin.fileno(), left) :]
        return self._next_id

    def _ask(
        self, job: dict[str, Any], arrays: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            return self._receive(self._send(job, arrays))
        except (OSError, EOFError):
            if self._accepted == self._next_id:
                raise
            # It was dead before it saw the job, so the job is not to blame.
            self._start()
            return self._receive(self._send(job, arrays))

    def _receive(self, number: int) -> dict[str, Any]:
        while True:
            line = self._line()
            try:
                reply = json.loads(line)
                answers, known = reply["id"], "accepted" in reply or "ok" in reply
            except (ValueError, LookupError, TypeError):
                raise EOFError from None  # not what was started speaks
            if not known:
                raise EOFError
            self._answered = True
            if "arrays" in reply:
                try:
                    reply["arrays"] = unpacked(reply["arrays"], self._read)
                except (ValueError, LookupError, TypeError, OverflowError):
                    raise EOFError from None
            if answers == number:
                if not reply.get("accepted"):
                    return reply
                self._accepted = number

    def _line(self) -> bytes:
        """Returns the next line of the worker."""
        line = bytearray()
        while b"\n" not in self._unread:
            line += self._unread
            if len(line) > _LONGEST_LINE:
                raise EOFError
            self._unread = self._part(1 << 16)
        end, _, self._unread = self._unread.partition(b"\n")
        return bytes(line + end)

    def _read(self, size: int) -> bytes:
        """Returns the next so many bytes of the worker."""
        found, self._unread = bytearray(self._unread[:size]), self._unread[size:]
        while len(found) < size:
            found += self._part(min(size - len(found), 1 << 20))
        return bytes(found)

    def _part(self, most: int) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        if hasattr(select, "poll"):
            # What the worker forked (a library's telemetry) may hold the pipe open
            # when the worker is gone.
            waiting = select.poll()
            waiting.register(pipe, select.POLLIN)
            while not waiting.poll(1000):
                if self._process.poll() is not None:
                    raise EOFError
        part = os.read(pipe, most)
        if not part:
            raise EOFError
        return part

    def _obituary(self) -> str:
        assert self._process is not None
        who = "the converter process" if self._answered else repr(python())
        if self._late:
            return f"{who} gave no answer in time"
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return f"{who} stopped answering"
        if code < 0:
            name = signal.Signals(-code).name
            why = _CAUSES.get(name, "") if self._answered else ""
            return f"{who} was killed by {name}{why}"
        return f"{who} ended with exit code {code}"

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
    # "Graph execution error:" alone says nothing.
    errors = [line for line in lines if "error:" in line and line[-6:] != "error:"]
    # The first error is the cause; what follows it are passes that gave up.
    if errors:
        line = errors[0].rsplit("error:", 1)[1].strip()
    else:
        # TensorFlow ends with the node that it was in.
        told = [line for line in lines if not line.startswith("[")]
        line = (told or lines or [""])[-1]
    place = _LOCATION.search(errors[0]) if errors else None
    if place:
        line += f" (in {place.group(1)})"
    return line if len(line) <= 300 else line[:300] + " ..."


def python() -> str:
    """Returns the Python that runs the worker.

    A program that embeds Python has an executable of its own, or none.
    """
    from multiprocessing import spawn

    known = spawn.get_executable() or sys.executable or ""
    known = os.fsdecode(known)
    if known and (os.path.exists(known) or os.name == "nt"):
        return known
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (sys.exec_prefix, sys.base_exec_prefix):
        found = os.path.join(folder, "bin", name)
        if os.path.exists(found):
            return found
    return known


#: Converts, and runs what was just converted.
WORKER = ConverterProcess()
#: Runs files that nobody vouches for.
JAIL = ConverterProcess(jailed=True)
for _process in (WORKER, JAIL):
    at_the_end(_process.close)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_process.after_fork)
