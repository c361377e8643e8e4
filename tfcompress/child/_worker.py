"""The child process that runs converters: a crash here never kills the user.

Started by `process.py` as a plain script, so it imports neither tfcompress nor
the user's `__main__`. Jobs come in as JSON lines, replies go out as JSON lines;
everything libraries print ends up on stderr, which the parent keeps as a log.
"""

import contextlib
import functools
import json
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def warm(_: dict[str, Any]) -> dict[str, Any]:
    """Imports TensorFlow, which takes seconds, ahead of the first conversion."""
    import tensorflow as tf

    return {"tensorflow": tf.__version__}


def read_hdf5(job: dict[str, Any]) -> dict[str, Any]:
    """Reads all that is in the HDF5 file at `path`, or in those of a .keras file."""
    import io
    import zipfile

    import h5py

    files: list[Any] = [job["path"]]
    if zipfile.is_zipfile(job["path"]):
        with zipfile.ZipFile(job["path"]) as archive:
            names = [name for name in archive.namelist() if name.endswith(".h5")]
            files = [io.BytesIO(archive.read(name)) for name in names]

    def look(_: str, node: Any) -> None:
        list(node.attrs.items())
        if isinstance(node, h5py.Dataset):
            node[()]

    for file in files:
        with h5py.File(file, "r") as opened:
            look("", opened)
            opened.visititems(look)
    return {}


@functools.cache
def beside(name: str) -> dict[str, Any]:
    """Returns what a script beside this one defines."""
    return runpy.run_path(str(Path(__file__).with_name(name)))


def jobs_of(script: str | None) -> dict[str, Any]:
    """Returns the jobs of a script; a format brings its own beside its exporter."""
    return JOBS if script is None else _run_once(script, os.stat(script).st_mtime_ns)


@functools.cache
def _run_once(script: str, changed: int) -> dict[str, Any]:
    """Runs a script, once, so that its jobs may keep what they have loaded."""
    return runpy.run_path(script)["JOBS"]


_MOST_OPEN = 4
_OPEN: dict[str, Any] = {}


def kept(key: str, make: Callable[[], Any]) -> Any:
    """Returns what `make` made for a key before; the last few are kept.

    Runners take turns in a benchmark, and opening a model may take seconds.
    """
    opened = _OPEN.pop(key) if key in _OPEN else make()
    while len(_OPEN) >= _MOST_OPEN:
        del _OPEN[next(iter(_OPEN))]
    _OPEN[key] = opened
    return opened


JOBS = {"warm": warm, "read_hdf5": read_hdf5}


@contextlib.contextmanager
def limited(job: dict[str, Any]) -> Iterator[None]:
    """Inside, the process ends when it takes more than the job may.

    A file that nobody vouches for may hold a loop without an end, or ask for all memory
    that there is. Soft limits can be put back.
    """
    wanted = job.get("memory"), job.get("cpu_seconds")
    try:
        import resource
    except ImportError:  # Windows has no such limits
        wanted = None, None
    if wanted == (None, None):
        yield
        return
    with open("/proc/self/statm") if sys.platform == "linux" else open(os.devnull) as f:
        mapped = int((f.read() or "0").split()[0]) * resource.getpagesize()
    times = resource.getrusage(resource.RUSAGE_SELF)
    used = mapped, int(times.ru_utime + times.ru_stime) + 1
    kinds = resource.RLIMIT_AS, resource.RLIMIT_CPU
    before = [resource.getrlimit(kind) for kind in kinds]
    for kind, base, more, (_, hard) in zip(kinds, used, wanted, before):
        if more is not None:
            most = base + more
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        for kind, limits in zip(kinds, before):
            resource.setrlimit(kind, limits)


def end_with_the_parent(lifeline: int) -> None:
    """Ends this process when the parent is gone, also in the middle of a job.

    Args:
        lifeline: a pipe whose other end the parent alone holds.
    """
    try:
        import fcntl

        # The kernel sends the signal itself: nothing here has to be able to run.
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):
        pass  # not Linux; the thread does what it can

    def watch() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def forbid_large_files(most: int = 1 << 20) -> None:
    """Bounds what is written where the kernel cannot say which files are."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def main() -> None:
    """Answers jobs until the parent closes the pipe or goes away."""
    if sys.argv[4] == "jailed":
        # Before there are other threads, which would keep their rights.
        landlock = beside("_jail.py")["enter"](os.environ["TMPDIR"])
        if not landlock:
            forbid_large_files()
    if os.name == "posix":
        end_with_the_parent(int(sys.argv[3]))
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def answer(reply: dict[str, Any]) -> None:
        arrays, data = reply.pop("arrays", None), []
        if arrays is not None:
            reply["arrays"], data = beside("_arrays.py")["packed"](arrays)
        replies.write(json.dumps(reply).encode() + b"\n")
        for part in data:
            replies.write(part)
        replies.flush()

    while line := requests.readline():
        job = json.loads(line)
        if "arrays" in job:
            unpacked = beside("_arrays.py")["unpacked"]
            job["arrays"] = unpacked(job["arrays"], requests.read)
        if "stamp" in job:
            # Of a file that has changed, or with other options, another key.
            key = [job.get(n) for n in ("script", "stamp", "threads", "arena")]
            job["kept"] = functools.partial(kept, repr(key))
        if "samples" in job:
            of_samples = beside("_samples_worker.py")["answer"]
            job["answer"] = functools.partial(of_samples, job)
        answer({"id": job["id"], "accepted": True})
        try:
            with limited(job):
                reply = {"ok": True, **jobs_of(job.get("script"))[job["job"]](job)}
        except BaseException as error:
            traceback.print_exc()
            reply = {"ok": False, "type": type(error).__name__, "error": str(error)}
        sys.stderr.flush()
        answer({**reply, "id": job["id"]})


if __name__ == "__main__":
    main()
