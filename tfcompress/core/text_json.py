"""JSON that every reader takes: NaN and infinity, which JSON has not, become null."""

import json
import math
import re
from typing import Any

# A list of numbers, which is read better on one line. No string has a line break.
_NUMBER = r"\n\s*(?:-?\d[\d.eE+-]*|null)"
_LIST = re.compile(rf"(?<=\[){_NUMBER}(?:,{_NUMBER})*\n\s*(?=\])")


def dumps(value: Any) -> str:
    """Returns `value` as indented JSON.

    >>> print(dumps({"error": float("nan"), "confusion": ((50, 1), (2, 40))}))
    {
      "error": null,
      "confusion": [
        [ 50, 1 ],
        [ 2, 40 ]
      ]
    }
    """
    text = json.dumps(_finite(value), indent=2)
    return _LIST.sub(lambda found: re.sub(r"\n\s*", " ", found[0]), text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    broken = isinstance(value, float) and not math.isfinite(value)
    return None if broken else value
