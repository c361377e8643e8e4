"""Computes what depends on constants alone: shapes, masks, positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfcompress.core.errors import one_line
from tfcompress.interop.onnx.reading import Node, as_plain
from tfcompress.interop.onnx.refusing import Refused

# Numbers in a constant that is computed.
_MOST = 1 << 26
_ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "And", "Ceil", "Cos", "Div", "Equal", "Erf", "Exp", "Floor"),
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "Max", "Min"),
        *("Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Round", "Sigmoid"),
        *("Sign", "Sin", "Sqrt", "Sub", "Tanh", "Where", "Xor", "IsNaN", "IsInf"),
    )
)
_OTHER = frozenset(
    (
        *("Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "CumSum", "Expand"),
        *("Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Range"),
        *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape"),
        *("ScatterND", "Shape", "Size", "Slice", "Softmax", "Split", "Squeeze"),
        *("Tile", "Transpose", "Trilu", "Unsqueeze", "CastLike", "Dropout"),
    )
)
FOLDED = _ELEMENTWISE | _OTHER


def folded(node: Node, arrays: list[Any], opset: int) -> list[np.ndarray]:
    """Returns what a node makes of constants.

    ONNX's own reference, in Python, computes it.

    Args:
        node: the node; its kind is in `FOLDED`.
        arrays: its inputs, None for those that are left out.
        opset: the version of the operators.

    Raises:
        Refused: if it is damaged, or makes too much of little.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        size = _size(node, [np.asarray(a) for a in arrays if a is not None])
    except (ValueError, LookupError, TypeError) as error:
        raise Refused(one_line(error, 200), "inputs that fit") from error
    if size > _MOST:
        raise Refused(f"{size:,} numbers", f"at most {_MOST:,} in a constant")
    names = dict.fromkeys(name for name in node.inputs if name)
    graph = onnx.helper.make_graph(
        [node.proto],
        "folded",
        [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in names],
        [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in node.outputs],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)]
    )
    try:
        with np.errstate(all="ignore"):
            made = ReferenceEvaluator(model).run(
                None, {n: a for n, a in zip(node.inputs, arrays) if n}
            )
    except Exception as error:  # of the reference, on a node that is damaged
        raise Refused(one_line(error, 200), "inputs that fit") from error
    return [as_plain(np.asarray(one)) for one in made]


def _size(node: Node, arrays: list[np.ndarray]) -> int:
    """Returns how many numbers come out, or a number that is larger."""
    kind = node.kind
    if kind in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(a.shape for a in arrays)))
    if kind == "ConstantOfShape":
        return math.prod(int(n) for n in arrays[0])
    if kind == "Expand":
        shape = tuple(int(n) for n in arrays[1])
        return math.prod(np.broadcast_shapes(arrays[0].shape, shape))
    if kind == "Tile":
        return arrays[0].size * math.prod(int(n) for n in arrays[1])
    if kind == "Range":
        start, limit, step = (float(a) for a in arrays)
        return math.ceil(abs((limit - start) / step)) if step else _MOST + 1
    if kind == "Gather":
        axis = node.attributes.get("axis", 0)
        return arrays[0].size // max(arrays[0].shape[axis], 1) * arrays[1].size
    if kind == "GatherND":
        return arrays[0].size * max(arrays[1].size, 1)
    return sum(a.size for a in arrays)
