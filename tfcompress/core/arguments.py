"""Checks of arguments: numbers, whole numbers, words of a list, patterns and paths.

Each returns the value in Python's own type, or raises an error of the library's. What
the user hears is the caller's: `problem` is one sentence that names the argument.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any, NoReturn

from tfcompress.core.errors import InvalidArgumentError


def number(
    value: Any,
    problem: str,
    interval: str,
    expected: str | None = None,
    fix: str | None = None,
) -> float:
    """Returns a number of an interval as a float.

    Args:
        value: what the user gave. NumPy's numbers are taken; booleans are no numbers.
        problem: says what is wrong, and names the argument.
        interval: such as "[0, 1)": a square bracket includes its end, "inf" has none.
        expected: what would have been right; the interval if absent.
        fix: what the user can do about it.

    Raises:
        InvalidArgumentError: for anything else.

    Example:

    >>> number(0.9, "`decay` must be a share.", "[0, 1)")
    0.9
    >>> number(2, "Bad `decay`.", "[0, 1)")
    Traceback (most recent call last):
        ...
    tfcompress.core.errors.InvalidArgumentError: Bad `decay`. Received: 2. ...
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not _is_in(float(value), interval):
        _refuse(value, problem, expected or f"a number in {interval}", fix)
    return float(value)


def integer(
    value: Any,
    problem: str,
    low: int | None = None,
    high: int | None = None,
    expected: str | None = None,
    fix: str | None = None,
) -> int:
    """Returns a whole number from `low` to `high`, both included.

    >>> integer(8, "`round_to` must be a number of channels.", low=1)
    8
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    above = whole and (low is None or value >= low)
    if not above or not (high is None or value <= high):
        limits = f" >= {low}" if low is not None else ""
        limits = f" in [{low}, {high}]" if high is not None else limits
        _refuse(value, problem, expected or f"an int{limits}", fix)
    return int(value)


def one_of(
    value: Any,
    problem: str,
    choices: Collection[Any],
    expected: str | None = None,
    fix: str | None = None,
) -> Any:
    """Returns a value that is among the choices.

    >>> one_of("layer", "Unknown `scope`.", ("layer", "global"))
    'layer'
    """
    # To Python True is 1, which is no choice of the same kind.
    like = [c for c in choices if isinstance(c, bool) == isinstance(value, bool)]
    # Lists and arrays are no choices, and cannot be compared with one.
    if not isinstance(value, Hashable) or value not in like:
        words = [repr(choice) for choice in choices]
        few = " or ".join(words)
        _refuse(
            value,
            problem,
            expected or (few if len(words) < 3 else f"one of {', '.join(words)}"),
            fix,
        )
    return value


def pattern(value: Any, problem: str) -> re.Pattern[str]:
    """Returns a regular expression, to be searched for.

    Args:
        value: what the user gave.
        problem: says what is wrong without its full stop; why is added.

    Raises:
        InvalidArgumentError: if it is none.

    Example:

    >>> pattern("conv_[12]", "Bad `filters`").search("block/conv_2") is not None
    True
    """
    try:
        if not isinstance(value, str):
            raise TypeError("it is no text")
        return re.compile(value)
    except (re.error, TypeError) as error:
        raise InvalidArgumentError(
            f"{problem} ({error}).", received=repr(value), expected="such as 'block.*'"
        ) from error


def path_of(value: Any, name: str) -> Path:
    """Returns where something is, or is to be.

    Args:
        value: what the user gave.
        name: the argument.

    Raises:
        InvalidArgumentError: for anything but a text or a path.

    Example:

    >>> path_of("student.tflite", "filepath").suffix
    '.tflite'
    """
    try:
        return Path(value)
    except TypeError:
        raise InvalidArgumentError(
            f"`{name}` is no path.",
            received=repr(value),
            expected="a str or a pathlib.Path",
        ) from None


def _refuse(value: Any, problem: str, expected: str, fix: str | None) -> NoReturn:
    raise InvalidArgumentError(
        problem, received=repr(value), expected=expected, fix=fix
    )


def _is_in(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    below = value <= high if interval[-1] == "]" else value < high
    return above and below and not math.isnan(value)
