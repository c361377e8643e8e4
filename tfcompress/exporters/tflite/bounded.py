"""Whether what a .tflite file does is the same in each call, whatever its inputs are.

A file without loops, whose tensors have the same sizes in each call, takes the same
time and memory in each: one run in the child process says all of it.
"""

from __future__ import annotations

from tfcompress.exporters.tflite.flatbuffer import Operator, Tensor, TFLiteFile

# Which operands say how large the result is.
_SIZES = {
    "BROADCAST_TO": (1,),
    "FILL": (0,),
    "MIRROR_PAD": (1,),
    "MULTINOMIAL": (1,),
    "ONE_HOT": (1,),
    "PAD": (1,),
    "PADV2": (1, 2),
    "RANDOM_STANDARD_NORMAL": (0,),
    "RANDOM_UNIFORM": (0,),
    "RANGE": (0, 1, 2),
    "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,),
    "RFFT2D": (1,),
    "SCATTER_ND": (2,),
    "SEGMENT_SUM": (1,),
    "SPARSE_TO_DENSE": (1,),
    "TILE": (1,),
    "TRANSPOSE_CONV": (0,),
    "UNSORTED_SEGMENT_MAX": (2,),
    "UNSORTED_SEGMENT_MIN": (2,),
    "UNSORTED_SEGMENT_PROD": (2,),
    "UNSORTED_SEGMENT_SUM": (2,),
}
# What runs another graph: a signature's graph may be run by another one's.
_CALL_GRAPHS = {"CALL", "IF", "STABLEHLO_WHILE", "WHILE"}
# What a call hands to the next one may be as large as inputs say.
_KEEP_VALUES = {"ASSIGN_VARIABLE", "READ_VARIABLE", "HASHTABLE_IMPORT"}
# What they say of a tensor says nothing of its values.
_OF_SHAPES = {"RANK", "SHAPE"}


def unbounded(file: TFLiteFile) -> str | None:
    """Returns why the file may do more in another call than in a first one, or None."""
    for signature in file.signatures:
        for tensor in signature.inputs:
            if None in tensor.info.shape[1:]:
                return f"input '{tensor.info.name}' has a free size"
    if len(file.graphs) != len({one.graph for one in file.signatures}):
        return "it has parts that run again and again, or by turns"
    if file.custom_operators:
        return f"operator {file.custom_operators[0]} is none of LiteRT's own"
    for signature in file.signatures:
        reason = _unbounded_graph(file.graphs[signature.graph], signature.inputs)
        if reason is not None:
            return reason
    return None


def _unbounded_graph(
    operators: tuple[Operator, ...], inputs: tuple[Tensor, ...]
) -> str | None:
    of_values = {tensor.index for tensor in inputs}
    for operator in operators:
        if operator.name in _CALL_GRAPHS:
            return "it has parts that run again and again, or by turns"
        if operator.name in _KEEP_VALUES:
            return f"{operator.name} keeps values from call to call"
        operands, places = operator.inputs, _SIZES.get(operator.name, ())
        sizes = [operands[place] for place in places if place < len(operands)]
        if any(tensor.index in of_values for tensor in sizes):
            return f"values say how large the result of {operator.name} is"
        if operator.name not in _OF_SHAPES and any(
            tensor.index in of_values for tensor in operands
        ):
            of_values |= {tensor.index for tensor in operator.outputs}
    return None
