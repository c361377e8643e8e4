"""Concatenation, splitting, slices and lookups."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value


@operator("Concat")
def concatenated(call: Call) -> Value:
    given = call.inputs
    values = [one for one in given if isinstance(one, Value)]
    first = max(values, key=lambda value: sum(map(bool, value.axes)))
    axis = first.axis(call.attribute("axis"))
    if any(len(one.shape) != first.rank for one in given):
        raise Refused(f"shapes {[one.shape for one in given]}", "as many axes each")
    order = first.order() or list(range(first.rank))
    tensors = [
        one.laid(order)
        if isinstance(one, Value)
        else _for_each_sample(call, one, first, order, index)
        for index, one in enumerate(given)
    ]
    shape = list(first.shape)
    if shape[axis] % call.batch == 0:
        raise Refused("samples that are joined", "an axis of one sample")
    shape[axis] = sum(one.shape[axis] for one in given)
    tensor = call.layer(layers.Concatenate, tensors, axis=order.index(axis))
    return call.plain(tensor, shape, order)


@operator("Split")
def split(call: Call) -> list[Value]:
    value = call.value()
    axis = value.axis(call.attribute("axis", 0))
    size, count = value.shape[axis], len(call.node.outputs)
    whole = -(-size // count)
    even = [min(whole, size - i * whole) for i in range(count)]
    sizes = call.setting("split", 1, even)
    if sum(sizes) != size or len(sizes) != count:
        raise Refused(f"parts {sizes} of {size}", f"{count} parts of all")
    ends = np.cumsum([0, *sizes]).tolist()
    parts = [cut(value, axis, slice(*pair)) for pair in itertools.pairwise(ends)]
    return [part.renamed(call.name) for part in parts]


@operator("Slice")
def sliced(call: Call) -> Value:
    value = call.value()
    starts, ends = call.setting("starts", 1), call.setting("ends", 2)
    axes = call.axes(value, 3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = call.setting("steps", 4, [1] * len(starts))
    for axis, start, end, step in zip(axes, starts, ends, steps):
        size = value.shape[axis]
        if step < 0:
            if step != -1 or start not in (-1, size - 1) or end >= -size:
                raise Refused(f"start {start} and step {step}", "all, backwards")
            value = _single(value, axis)
            (factor,) = value.axes[axis] or (None,)
            if factor is not None:
                value = value.same(ops.flip(value.tensor, factor))
            continue
        value = cut(value, axis, slice(*slice(start, end, step).indices(size)))
    return value.renamed(call.name)


@operator("Gather")
def gathered(call: Call) -> Value:
    data, where = call.inputs[:2]
    axis = call.attribute("axis", 0)
    if isinstance(where, Value):
        if isinstance(data, Value):
            raise Refused("a lookup in a tensor of the model", "a constant table")
        return _looked_up(call, data, where, axis)
    value = call.value()
    axis = value.axis(axis)
    numbers = np.where(where < 0, where + value.shape[axis], where)
    if np.any(numbers < 0) or np.any(numbers >= value.shape[axis]):
        raise Refused(f"index {where} of {value.shape[axis]}", "one that exists")
    if numbers.ndim == 0:
        index = int(numbers)
        found = cut(value, axis, slice(index, index + 1))
        return found.reshaped(_without(found.shape, axis)).renamed(call.name)
    first, count = int(numbers.flat[0]), numbers.size
    if numbers.ndim == 1 and np.array_equal(numbers, np.arange(first, first + count)):
        return cut(value, axis, slice(first, first + count)).renamed(call.name)
    if value.shape[axis] % call.batch == 0:
        raise Refused("samples chosen from a batch", "an axis of one sample")
    value = value.in_order(value.order())
    order = value.order() or list(range(value.rank))
    tensor = ops.take(value.laid(order), numbers.reshape(-1), order.index(axis))
    shape = [*value.shape]
    shape[axis] = count
    found = call.plain(tensor, shape, order)
    return found.reshaped([*shape[:axis], *numbers.shape, *shape[axis + 1 :]])


def cut(value: Value, axis: int, part: slice) -> Value:
    """Returns a part of a value along an ONNX axis."""
    size = value.shape[axis]
    count = len(range(*part.indices(size)))
    if count == size and part.step in (1, None):
        return value
    if count < 1:
        raise Refused(f"{part} of {size}", "a part that is not empty")
    value = _single(value, axis)
    (factor,) = value.axes[axis]
    # The first axis is that of the samples, and no slice of them is one of a sample.
    if value.raw.shape[0] is None and factor == 0:
        raise Refused(f"a part of the samples, {part}", "an axis of one sample")
    where = [slice(None)] * len(value.sizes)
    where[factor] = part
    sizes = [*value.sizes]
    sizes[factor] = count
    tensor = value.tensor[tuple(where)]
    return Value(tensor, sizes, value.axes, value.name, value.names)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _single(value: Value, axis: int) -> Value:
    """Returns the value with an axis that is one of the tensor too."""
    return value if len(value.axes[axis]) < 2 else value.in_order(value.order())


def _looked_up(call: Call, table: np.ndarray, where: Value, axis: int) -> Value:
    if axis % table.ndim != 0 or table.ndim != 2 or table.dtype.kind != "f":
        raise Refused(f"a table of shape {table.shape}, axis {axis}", "rows of floats")
    rows, width = table.shape
    for name, given in zip(call.node.inputs, call.inputs):
        if isinstance(given, Value):
            call.limit(name, rows)
    tensor = call.weighted(
        layers.Embedding, where.tensor, [table], input_dim=rows, output_dim=width
    )
    axes: list[Any] = [*where.axes, (len(where.sizes),)]
    return Value(tensor, [*where.sizes, width], axes, call.name, where.names)


def _for_each_sample(
    call: Call, array: np.ndarray, like: Value, order: list[int], index: int
) -> Any:
    """Returns a constant, such as the token of a class, once for each sample."""
    batch = next((i for i, n in enumerate(like.shape) if n == call.batch), None)
    if batch is None or array.shape[batch] not in (1, call.batch):
        raise Refused(f"a constant of shape {array.shape}", "one for each sample")
    first = array.take([0], batch)
    if not np.array_equal(np.broadcast_to(first, array.shape), array):
        raise Refused("a constant that differs from sample to sample", "one")
    tensor = like.laid(order)
    axis = order.index(like.axis(call.attribute("axis")))
    where = [slice(None)] * like.rank
    where[axis] = slice(0, 1)
    zeros = ops.zeros_like(tensor[tuple(where)])
    return zeros + call.held(first.transpose(order), like, index)
