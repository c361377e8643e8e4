"""Sums of two bytes in float32, where that gives the same for all pairs of bytes.

The integer kernels add two tensors on grids of their own as `floor((a * n + b * m) /
2 ** k + 1 / 2)`, which a model computes in float64. There are no more than 65536 pairs,
so two steps in float32 are looked for by which `round(a * s + b * t)` is the same for
each of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.byte_functions import Byte, Functions
from tfcompress.exporters.saved_model.served_nodes import Served, replace
from tfcompress.exporters.saved_model.tables import looked_up
from tfcompress.exporters.saved_model.whole_numbers import ends_behind, made_by
from tfcompress.exporters.saved_model.zeros import Zeros

_FLOAT = 1
# Steps that are tried: the nearest float32, and its neighbours.
_NEIGHBOURS = sorted(range(-32, 33), key=abs)
_CLOSE = 1e-3


@dataclasses.dataclass(frozen=True)
class Term:
    """A term of a sum.

    Attributes:
        source: the byte that it is computed of.
        values: the term for each number of that byte, in steps of the sum.
        of_none: the term where the byte is no number.
    """

    source: Byte
    values: np.ndarray
    of_none: np.ndarray

    def steps(self) -> list[np.float32 | None]:
        """Returns steps in float32 to try; None for a term that needs a table."""
        numbers = np.arange(self.source.low, self.source.high + 1)
        far = np.argmax(np.abs(numbers))
        step = self.values[far] / numbers[far] if numbers[far] else 0.0
        if not np.array_equal(self.values, numbers * step):
            return [None]
        near = np.float32(step)
        return [near + ulps * np.spacing(near) for ulps in _NEIGHBOURS]

    def column(self, step: np.float32 | None) -> np.ndarray:
        """Returns the term in float32."""
        if step is None:
            return self.values.astype("float32")
        numbers = np.arange(self.source.low, self.source.high + 1)
        return numbers.astype("float32") * step


def add_in_float32(served: Served) -> None:
    """Adds bytes in float32 where that gives the same for all pairs of them."""
    living = served.alive()
    functions, zeros = Functions(served), Zeros(served)
    for node in living:
        terms = _terms(served, node, functions)
        if terms is not None:
            _rewrite(served, node, terms, zeros.are_alike(node))


def _terms(served: Served, node: Any, functions: Functions) -> list[Term] | None:
    """Returns the two terms of a sum that is rounded half up."""
    if node.op != "Cast" or node.attr["DstT"].type != _FLOAT:
        return None
    floor = made_by(served, node.input[0], "Floor")
    scaled = made_by(served, floor.input[0], "Mul") if floor is not None else None
    if scaled is None:
        return None
    step = served.number(scaled.input[1])
    if step is None or np.frexp(step)[0] != 0.5:
        return None
    offset, tensors = 0.0, []
    waiting = [scaled.input[0]]
    while waiting:
        tensor = waiting.pop(0)
        sum_, number = made_by(served, tensor, "AddV2"), served.number(tensor)
        if number is not None:
            offset += number
        elif sum_ is not None:
            waiting += sum_.input
        else:
            tensors.append(tensor)
    if len(tensors) != 2 or offset * step != 0.5:
        return None
    terms = [_term(tensor, step, functions) for tensor in tensors]
    found = [term for term in terms if term is not None]
    return found if len(found) == len(terms) else None


def _term(tensor: str, step: float, functions: Functions) -> Term | None:
    source = functions.source(tensor, far=False)
    values = functions.values(tensor, source) if source is not None else None
    if source is None or values is None or values.dtype != np.float64:
        return None
    numbers, minus_zero = values[:-2], values[-2]
    if not np.array_equal(numbers, np.rint(numbers)):
        return None
    if source.low <= 0 <= source.high and numbers[-source.low] != minus_zero:
        return None
    return Term(source, numbers * step, values[-1:])


def _rewrite(served: Served, node: Any, terms: list[Term], alike: bool) -> None:
    exact = np.add.outer(*(term.values for term in terms))
    ends = ends_behind(served, node)
    wanted = np.clip(np.floor(exact + 0.5), *ends)
    # Far from the middle of two whole numbers float32 makes no difference.
    close = np.nonzero(np.abs(exact - np.floor(exact) - 0.5) < _CLOSE)
    # A rounding makes minus zero of a small negative number, and a floor does not.
    for way in ("Round", "Floor") if alike else ("Floor",):
        for steps in itertools.product(*(term.steps() for term in terms)):
            columns = [term.column(step) for term, step in zip(terms, steps)]
            first, second = (column[place] for column, place in zip(columns, close))
            if not np.array_equal(_rounded(first, second, way, ends), wanted[close]):
                continue
            found = _rounded(columns[0][:, None], columns[1], way, ends)
            if np.array_equal(found, wanted):
                _emit(served, node, terms, steps, way)
                return


def _rounded(first: Any, second: Any, way: str, ends: tuple[float, float]) -> Any:
    """Returns the sum of two terms in float32, as one of two ways rounds it."""
    if way == "Round":
        return np.clip(np.rint(first + second), *ends)
    return np.clip(np.floor(first + (second + np.float32(0.5))), *ends)


def _emit(served: Served, node: Any, terms: list[Term], steps: Any, way: str) -> None:
    columns = []
    for place, (term, step) in enumerate(zip(terms, steps)):
        name = f"{node.name}/term_{place}"
        if step is None:
            values = np.append(term.of_none, term.values).astype("float32")
            columns.append(looked_up(served, name, term.source, values))
            continue
        inputs = [term.source.tensor, served.constant(f"{name}/step", np.array(step))]
        shape = served.shape(term.source.tensor)
        columns.append(served.made(name, "Mul", inputs, shape, T=_FLOAT))
    if way == "Floor":
        half = served.constant(f"{node.name}/half", np.array(0.5, "float32"))
        inputs, shape = [columns[1], half], served.shape(columns[1])
        name = f"{node.name}/and_half"
        columns[1] = served.made(name, "AddV2", inputs, shape, T=_FLOAT)
    name, shape = f"{node.name}/sum", served.shape(node.name)
    served.made(name, "AddV2", columns, shape, T=_FLOAT)
    replace(node, way, [name], "T")
    node.attr["T"].type = _FLOAT
