"""JSON that every reader takes: NaN and infinity, which JSON has not, become null."""

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """Returns `value` as indented JSON.

    >>> dumps({"error": float("nan")})
    '{\\n  "error": null\\n}'
    """
    return json.dumps(_finite(value), indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    broken = isinstance(value, float) and not math.isfinite(value)
    return None if broken else value
