"""Steps of products by which each order of multiplying gives the same.

TensorFlow's optimizer multiplies `(a * b) * step` as `a * (b * step)` where it likes,
and its choice changes with the graph around. The two differ in the last bit, which a
rounding makes a whole step of where a product is close to the middle of two numbers.
There is a step nearby with which no order differs, for any pair of bytes.
"""

from __future__ import annotations

import numpy as np

from tfcompress.exporters.saved_model.byte_functions import Byte, byte
from tfcompress.exporters.saved_model.served_nodes import Served
from tfcompress.exporters.saved_model.whole_numbers import ends_behind, made_by

# As ulps, neighbours that are tried.
_NEIGHBOURS = sorted(range(-32, 33), key=abs)
_CLOSE = 1e-2


def settle(served: Served) -> None:
    """Takes steps by which products of bytes do not depend on the order."""
    for node in served.alive():
        scaled = made_by(served, node.input[0], "Mul") if node.op == "Round" else None
        if scaled is None:
            continue
        step = served.number(scaled.input[1])
        product = made_by(served, scaled.input[0], "Mul")
        if step is None or product is None:
            continue
        first, second = (byte(served, one) for one in product.input)
        if first is None or second is None:
            continue
        found = _settled(first, second, step, ends_behind(served, node))
        if found is not None:
            scaled.input[1] = served.constant(f"{scaled.name}/step", found)


def _settled(
    factor: Byte, other_factor: Byte, given: float, ends: tuple[float, float]
) -> np.ndarray | None:
    """Returns the step to take; None if there is none."""
    step = np.float32(given)
    first, second = factor.values[:-2], other_factor.values[:-2]
    products = np.multiply.outer(first, second)
    wanted = np.clip(np.rint(products * step), *ends)
    off = np.abs(products * step - np.floor(products * step) - 0.5)
    rows, columns = np.nonzero(off < _CLOSE)
    one, other, wanted = first[rows], second[columns], wanted[rows, columns]
    for ulps in _NEIGHBOURS:
        near = step + ulps * np.spacing(step)
        orders = ((one * other) * near, one * (other * near), (one * near) * other)
        if all(
            np.array_equal(np.clip(np.rint(made), *ends), wanted) for made in orders
        ):
            return np.array(near, "float32")
    return None
