"""Reshapes and transpositions: most change nothing but what axes are called."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value, channels_last

_ZEROS = {3: layers.ZeroPadding1D, 4: layers.ZeroPadding2D, 5: layers.ZeroPadding3D}


@operator("Reshape")
def reshaped(call: Call) -> Value:
    value = call.value()
    wanted = [int(n) for n in call.setting("shape", 1)]
    if not call.attribute("allowzero", 0):
        wanted = [value.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    # [1, -1] of a file for one sample fits other numbers of samples, too, but wrongly.
    shape = _whole(_for_batches(call, wanted, value.shape), value.shape) or _whole(
        wanted, value.shape
    )
    if shape is None:
        raise Refused(f"a reshape of {value.shape} to {wanted}", "as many numbers")
    return value.reshaped(shape).renamed(call.name)


@operator("Flatten")
def flattened(call: Call) -> Value:
    value, axis = call.value(), call.attribute("axis", 1)
    axis = axis + value.rank if axis < 0 else axis
    shape = math.prod(value.shape[:axis]), math.prod(value.shape[axis:])
    return value.reshaped(shape).renamed(call.name)


@operator("Transpose")
def transposed(call: Call) -> Value:
    value = call.value()
    order = call.attribute("perm", [*range(value.rank)][::-1])
    if sorted(order) != [*range(value.rank)]:
        raise Refused(f"the order {order}", f"one of {value.rank} axes")
    return value.transposed(order).renamed(call.name)


@operator("Squeeze")
def squeezed(call: Call) -> Value:
    value = call.value()
    axes = call.axes(value)
    axes = [i for i, n in enumerate(value.shape) if n == 1] if axes is None else axes
    if any(value.shape[axis] != 1 for axis in axes):
        raise Refused(f"axes {axes} of {value.shape}", "axes of size 1")
    return value.reshaped([n for i, n in enumerate(value.shape) if i not in axes])


@operator("Unsqueeze")
def unsqueezed(call: Call) -> Value:
    value = call.value()
    axes = np.ravel(call.setting("axes", 1))
    rank = value.rank + len(axes)
    sizes = iter(value.shape)
    new = {int(axis) % rank for axis in axes}
    return value.reshaped([1 if i in new else next(sizes) for i in range(rank)])


@operator("Expand")
def expanded(call: Call) -> Value:
    value = call.value()
    wanted = [int(n) for n in call.constant(1)]
    if call.fixed and wanted[:1] == [call.fixed] and value.shape[0] == call.batch:
        wanted[0] = call.batch
    return _repeated(call, value, np.broadcast_shapes(value.shape, tuple(wanted)))


@operator("Tile")
def tiled(call: Call) -> Value:
    value = call.value()
    times = [int(n) for n in call.constant(1)]
    return _tiled(call, value, times)


@operator("Pad")
def padded(call: Call) -> Value:
    value, mode = call.value(), call.attribute("mode", "constant")
    given = call.setting("pads", 1)
    axes = call.axes(value, 3)
    axes = list(range(value.rank)) if axes is None else axes
    number = call.setting("value", 2, 0.0)
    number = float(np.ravel(number)[0])
    around = [(0, 0)] * value.rank
    for place, axis in enumerate(axes):
        around[axis] = (int(given[place]), int(given[place + len(axes)]))
    if min(map(min, around)) < 0:
        raise Refused(f"pads {given}", "positive numbers")
    shape = [n + sum(pair) for n, pair in zip(value.shape, around)]
    spatial = value.rank in _ZEROS and around[0] == around[1] == (0, 0)
    if spatial and mode == "constant" and number == 0:
        order = channels_last(value.rank)
        pairs = around[2:] if value.rank > 3 else around[2]
        tensor = call.layer(
            _ZEROS[value.rank], value.laid(order), padding=_as_tuples(pairs)
        )
        return call.plain(tensor, shape, order)
    order = value.order() or list(range(value.rank))
    lying = [around[i] for i in order]
    if mode == "edge":
        raise Refused("the mode edge", "constant or reflect")
    options = {"constant_values": number} if mode == "constant" else {}
    tensor = ops.pad(value.laid(order), lying, mode, **options)
    return call.plain(tensor, shape, order)


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Value:
    value, size = call.value(), call.attribute("blocksize")
    batch, depth, *space = value.shape
    rest = depth // size**2
    if call.attribute("mode", "DCR") == "CRD":
        parts, order = (batch, rest, size, size, *space), (0, 1, 4, 2, 5, 3)
    else:
        parts, order = (batch, size, size, rest, *space), (0, 3, 4, 1, 5, 2)
    moved = value.reshaped(parts).transposed(order)
    shape = (batch, rest, *(n * size for n in space))
    return moved.reshaped(shape).renamed(call.name)


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Value:
    value, size = call.value(), call.attribute("blocksize")
    batch, depth, height, width = value.shape
    parts = (batch, depth, height // size, size, width // size, size)
    moved = value.reshaped(parts).transposed((0, 3, 5, 1, 2, 4))
    shape = (batch, depth * size**2, height // size, width // size)
    return moved.reshaped(shape).renamed(call.name)


def _whole(wanted: Sequence[int] | None, shape: Sequence[int]) -> list[int] | None:
    """Returns the shape with its -1 filled in; None if the numbers do not fit."""
    if wanted is None or sum(n == -1 for n in wanted) > 1:
        return None
    rest = math.prod(n for n in wanted if n != -1)
    total = math.prod(shape)
    if -1 in wanted:
        if rest < 1 or total % rest:
            return None
        return [total // rest if n == -1 else n for n in wanted]
    return list(wanted) if rest == total else None


def _for_batches(
    call: Call, wanted: list[int], shape: Sequence[int]
) -> list[int] | None:
    """Returns a shape that was written for the one size of batch, for any."""
    if not call.fixed:
        return None
    samples = next((i for i, n in enumerate(shape) if n % call.batch == 0), 0)
    before = math.prod(shape[:samples])
    for place, size in enumerate(wanted):
        if size > 0 and size % call.fixed == 0 and math.prod(wanted[:place]) == before:
            free = [*wanted]
            free[place] = size // call.fixed * call.batch
            if _whole(free, shape):
                return free
    return None


def _repeated(call: Call, value: Value, shape: Sequence[int]) -> Value:
    value = value.reshaped((*(1 for _ in shape[value.rank :]), *value.shape))
    return _tiled(call, value, [w // n for w, n in zip(shape, value.shape)])


def _tiled(call: Call, value: Value, times: list[int]) -> Value:
    if max(times) == 1:
        return value
    shape = [n * t for n, t in zip(value.shape, times)]
    order = value.order() or list(range(value.rank))
    tensor = ops.tile(value.laid(order), [times[i] for i in order])
    return call.plain(tensor, shape, order)


def _as_tuples(pairs: Sequence) -> tuple:
    return tuple(tuple(p) if isinstance(p, (list, tuple)) else p for p in pairs)
