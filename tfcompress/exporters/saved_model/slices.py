"""Slices that take a tensor apart become one operation that does."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.graph import with_port
from tfcompress.exporters.saved_model.served_nodes import Served, replace


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a slice takes of one axis.

    Attributes:
        node: the slice.
        axis: the axis.
        start: the first place.
        stop: the place behind the last one.
        whole: whether the axis remains.
    """

    node: Any
    axis: int
    start: int
    stop: int
    whole: bool


def take_apart(served: Served) -> None:
    """Takes tensors apart by one operation where slices do it one by one."""
    groups: dict[tuple, list[Piece]] = {}
    for node in served.alive():
        piece = _piece(served, node) if node.op == "StridedSlice" else None
        if piece is not None:
            key = with_port(node.input[0]), piece.axis, piece.whole
            groups.setdefault(key, []).append(piece)
    for (tensor, axis, whole), pieces in groups.items():
        size = served.shapes[tensor][axis]
        cuts = sorted({(piece.start, piece.stop) for piece in pieces})
        apart = all(one[1] <= other[0] for one, other in itertools.pairwise(cuts))
        taken = sum(stop - start for start, stop in cuts)
        if apart and len(cuts) > 1 and 2 * taken > size:
            (_split if whole else _unpack)(served, tensor, axis, pieces)


def _piece(served: Served, node: Any) -> Piece | None:
    """Returns what a slice takes, if it takes something of a single axis."""
    given = [served.values.get(with_port(one)) for one in node.input[1:]]
    arrays = [one.tolist() for one in given if one is not None]
    shape = served.shape(node.input[0])
    if shape is None or len(arrays) < 3 or {*arrays[2]} != {1}:
        return None
    flags = {name: node.attr[name].i for name in node.attr if name.endswith("_mask")}
    if flags.get("ellipsis_mask") or flags.get("new_axis_mask"):
        return None
    pieces = []
    for axis, (size, start, stop) in enumerate(zip(shape, *arrays[:2])):
        has = {name: value >> axis & 1 for name, value in flags.items()}
        whole = not has.get("shrink_axis_mask")
        if whole:
            start = None if has.get("begin_mask") else start
            stop = None if has.get("end_mask") else stop
        else:
            stop = start + 1 or None
        if size is None and (start, stop) != (None, None):
            return None
        places = range(size or 0)[start:stop]
        if not whole or len(places) != (size or 0):
            pieces.append(Piece(node, axis, places.start, places.stop, whole))
    only = len(pieces) == 1 and pieces[0].start < pieces[0].stop
    return pieces[0] if only else None


def _split(served: Served, tensor: str, axis: int, pieces: list[Piece]) -> None:
    """Splits an axis; what no slice takes becomes pieces of its own."""
    size = served.shapes[tensor][axis]
    ends = {0, size, *(end for piece in pieces for end in (piece.start, piece.stop))}
    places = sorted(ends)
    sizes = served.constant(
        f"{pieces[0].node.name}/sizes", np.diff(places).astype("int32")
    )
    dimension = served.constant(
        f"{pieces[0].node.name}/dimension", np.array(axis, "int32")
    )
    name = f"{pieces[0].node.name}/pieces"
    kinds = {"T": pieces[0].node.attr["T"].type, "Tlen": 3}
    served.made(name, "SplitV", [tensor, sizes, dimension], None, **kinds)
    served.nodes[name].attr["num_split"].i = len(places) - 1
    for piece in pieces:
        _pass_on(served, piece.node, name, places.index(piece.start))


def _unpack(served: Served, tensor: str, axis: int, pieces: list[Piece]) -> None:
    size = served.shapes[tensor][axis]
    name = f"{pieces[0].node.name}/pieces"
    served.made(name, "Unpack", [tensor], None, T=pieces[0].node.attr["T"].type)
    served.nodes[name].attr["num"].i, served.nodes[name].attr["axis"].i = size, axis
    for piece in pieces:
        _pass_on(served, piece.node, name, piece.start)


def _pass_on(served: Served, node: Any, name: str, place: int) -> None:
    served.shapes[f"{name}:{place}"] = served.shape(node.name)
    replace(node, "Identity", [f"{name}:{place}"], "T")
