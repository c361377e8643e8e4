"""Errors that say what was received, what was expected and what to do."""

import sys
import warnings
from types import FrameType
from typing import Any

# Who calls the package between its functions and the user's.
_BETWEEN = (
    *("tfcompress", "keras", "tensorflow", "optuna"),
    *("contextlib", "functools"),
)


class CompressionError(Exception):
    """Base class of every error tfcompress raises on purpose.

    Args:
        problem: one sentence that names the thing that is wrong.
        received: what was received (layer name, type, value).
        expected: what would have been right.
        fix: what the user can do about it.

    Example:

    >>> str(CompressionError("Bad sparsity.", received=1.5, expected="[0, 1)"))
    'Bad sparsity. Received: 1.5. Expected: [0, 1).'
    """

    def __init__(
        self,
        problem: str,
        *,
        received: Any = None,
        expected: Any = None,
        fix: Any = None,
    ):
        parts = [problem]
        for label, value in (
            ("Received", received),
            ("Expected", expected),
            ("What to do", fix),
        ):
            if value is not None:
                text = str(value)
                # Dots that say "and so on" end the sentence too.
                end = "" if text.endswith("...") else "."
                parts.append(f"{label}: {text.removesuffix('.') if end else text}{end}")
        super().__init__(" ".join(parts))


class InvalidArgumentError(CompressionError, ValueError):
    """An argument, a model or a data set cannot be used as it is."""


class UnsupportedLayerError(CompressionError, ValueError):
    """The user asked for a layer that has no rule for what was asked."""


class LoggedError(CompressionError, RuntimeError):
    """An error that may come from the child process, and then carries its log.

    Attributes:
        log: all that the child process printed during the job; "" without one.
    """

    log: str = ""


class ExportError(LoggedError):
    """A model could not be turned into an artifact; nothing was written."""


class ArtifactError(LoggedError):
    """An artifact on disk is missing, damaged or not what it says it is."""


class ServingError(CompressionError, RuntimeError):
    """A model server refused a request, or cannot be reached."""


class VerificationError(CompressionError, RuntimeError):
    """An artifact does not do what its reference model does."""


class CompressionWarning(UserWarning):
    """Something was left out of compression; training goes on."""


def warn(text: str) -> None:
    """Warns with a `CompressionWarning` that points at the user's own line.

    That is the first which is neither of the package nor of those that call it, as
    Keras does with callbacks.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and _room(frame) in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, CompressionWarning, stacklevel=level)


def _room(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).split(".")[0]


def one_line(error: Exception, longest: int = 200) -> str:
    """Returns what another library's error says, on one line, for `received`.

    >>> one_line(ValueError("no such\\n   layer"))
    'no such layer'
    """
    return " ".join(str(error).split())[:longest]
