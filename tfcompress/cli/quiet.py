"""TensorFlow is loaded, and what its C++ says meanwhile stays out of the terminal."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# What the user may set: 0 shows all lines, 3 fatal ones only.
_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_LINE = re.compile(r"([IWE])\d{4} \S+ +\d+ \S+\] ")
_SEVERITIES = "IWE"
# What goes with such a line, and has no head of its own.
_BESIDE = ("WARNING: All log messages before absl::InitializeLog", "To enable the foll")


def load_tensorflow() -> None:
    """Loads tfcompress, and TensorFlow, whose lines obey `TF_CPP_MIN_LOG_LEVEL`.

    TensorFlow itself writes some before it reads the variable, and of missing GPUs
    whatever it says. Unset, it is as if it were 3.
    """
    level = os.environ.get(_LEVEL, "3")
    hidden = int(level) if level in ("0", "1", "2", "3") else 0
    with _variable(_LEVEL, level), _without_lines(_SEVERITIES[:hidden]):
        import tensorflow as tf

        import tfcompress.public  # noqa: F401

        tf.config.list_logical_devices()  # it looks for GPUs, and tells of it


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


@contextlib.contextmanager
def _without_lines(severities: str) -> Iterator[None]:
    """Keeps lines of these severities back from standard error; all else comes late."""
    if not severities or "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        terminal = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            said.seek(0)
            text = said.read().decode(errors="replace")
            for line in text.splitlines(keepends=True):
                found = _LINE.match(line)
                if not ((found and found[1] in severities) or line.startswith(_BESIDE)):
                    sys.stderr.write(line)
