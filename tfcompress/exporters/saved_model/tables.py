"""Long functions of a byte as tables of what they give for each one.

What layers compute of a variance (its logarithm, half of it, the exponential, each on a
grid of its own) takes thirty operations and has 256 results. A table takes a few, and
holds the very same floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.byte_functions import Byte, Functions
from tfcompress.exporters.saved_model.graph import producer
from tfcompress.exporters.saved_model.served_nodes import Served, replace
from tfcompress.exporters.saved_model.zeros import Zeros

_FLOAT, _INT32 = 1, 3
# A look-up costs as much as some five operations.
_WORTH = 8


def look_up(served: Served) -> None:
    """Puts tables in the place of long functions of a byte."""
    living = served.alive()
    functions, zeros = Functions(served), Zeros(served)
    sources = {node.name: functions.source(node.name) for node in living}
    outputs = {producer(tensor) for tensor in served.outputs}
    # The last ones first: what they are computed of is still as it was.
    for node in reversed(living):
        source = sources[node.name]
        if source is None or source.tensor == served.passed_on(node.name):
            continue
        readers = served.readers.get(node.name, [])
        goes_on = all(sources.get(reader.name) == source for reader in readers)
        if goes_on and node.name not in outputs:
            continue
        if len(functions.inside(node.name, source)) >= _WORTH:
            _tabulate(served, node, functions, zeros)


def _tabulate(served: Served, node: Any, functions: Functions, zeros: Zeros) -> None:
    source = functions.source(node.name)
    shape = served.shape(node.name)
    if source is None or shape is None or shape.count(None) > 1 or 0 in shape:
        return
    values = functions.values(node.name, source)
    if values is None or not _is_alike_at_zero(source, values, zeros.are_alike(node)):
        return
    found = looked_up(served, node.name, source, np.append(values[-1:], values[:-2]))
    if shape == served.shape(source.tensor):
        replace(node, "Identity", [found], "T")
    else:
        sizes = np.array([-1 if size is None else size for size in shape], "int32")
        inputs = [found, served.constant(f"{node.name}/sizes", sizes)]
        replace(node, "Reshape", inputs, "T")
        node.attr["Tshape"].type = _INT32
    node.attr["T"].type = _type(values)


def looked_up(served: Served, name: str, source: Byte, values: np.ndarray) -> str:
    """Returns the name of a tensor that has a value for each number of a byte.

    Args:
        served: the graph; operations are added to it.
        name: how the names of these operations begin.
        source: the byte.
        values: what to give where there is no number, and then for the numbers of the
            byte, from the least on.
    """
    shape, origin = served.shape(source.tensor), producer(source.tensor)
    low = served.constant(f"{origin}/low", np.array(1 - source.low, "float32"))
    place = served.made(
        f"{origin}/place", "AddV2", [source.tensor, low], shape, T=_FLOAT
    )
    types = {"SrcT": _FLOAT, "DstT": _INT32}
    whole = served.made(f"{origin}/whole", "Cast", [place], shape, **types)
    # What is no number becomes the least integer, on other processors zero.
    first = served.constant(f"{origin}/first", np.zeros((), "int32"))
    index = served.made(f"{origin}/index", "Maximum", [whole, first], shape, T=_INT32)
    table = served.constant(f"{name}/table", values)
    axis = served.constant(f"{name}/axis", np.zeros((), "int32"))
    types = {"Tparams": _type(values), "Tindices": _INT32, "Taxis": _INT32}
    return served.made(
        f"{name}/of_bytes", "GatherV2", [table, index, axis], shape, **types
    )


def _is_alike_at_zero(source: Byte, values: np.ndarray, alike: bool) -> bool:
    """Returns whether minus zero may be taken for zero."""
    if not source.low <= 0 <= source.high:
        return True
    zero, minus = values[-source.low], values[-2]
    return bool(zero == minus) and (alike or np.signbit(zero) == np.signbit(minus))


def _type(values: np.ndarray) -> int:
    import tensorflow as tf

    return tf.dtypes.as_dtype(values.dtype).as_datatype_enum
