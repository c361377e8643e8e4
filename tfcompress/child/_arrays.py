"""Arrays over a pipe: a list that describes them, then their bytes.

A plain script too, which the child process runs without tfcompress.
"""

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_NUMBERS = "biufc"


def packed(arrays: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Returns what describes the arrays as JSON, and the bytes to send after it."""
    entries: list[dict[str, Any]] = []
    data: list[Any] = []
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":
            array = array.astype("float32")
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape)}
        if array.dtype.kind in _NUMBERS:
            whole = np.ascontiguousarray(array)
            entry |= {"dtype": array.dtype.str, "bytes": whole.nbytes}
            data.append(whole.reshape(-1).view("uint8"))
        else:
            entry["texts"] = [
                base64.b64encode(
                    text if isinstance(text, bytes) else str(text).encode()
                ).decode()
                for text in array.reshape(-1).tolist()
            ]
        entries.append(entry)
    return entries, data


def unpacked(entries: Any, read: Callable[[int], bytes]) -> dict[str, Any]:
    """Returns the arrays that `packed` described, by name.

    Args:
        entries: the description, which nobody vouches for.
        read: returns the next so many bytes.

    Raises:
        ValueError: if it describes no arrays.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        name, shape = str(entry["name"]), tuple(int(size) for size in entry["shape"])
        if any(size < 0 for size in shape):
            raise ValueError(f"a size of {name!r} is negative")
        if "texts" in entry:
            array = np.array([base64.b64decode(t) for t in entry["texts"]], object)
        else:
            dtype = np.dtype(str(entry["dtype"]))
            size = math.prod(shape) * dtype.itemsize
            if dtype.kind not in _NUMBERS or size != int(entry["bytes"]):
                raise ValueError(f"{name!r} is no array of {dtype}")
            array = np.frombuffer(bytearray(read(size)), dtype)
        if array.size != math.prod(shape):
            raise ValueError(f"{name!r} has {array.size} values for {shape}")
        found[name] = array.reshape(shape)
    return found
