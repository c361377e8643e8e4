"""`ops.einsum` of two tensors, as the product of matrices that it is."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.equation import Equation
from tfcompress.layers.integer_form import Parts, StaysFloat
from tfcompress.quantization.expansions.base import expansion

_FIX = "write it with ops.matmul, ops.transpose and ops.reshape"


@expansion("Einsum")
def einsum(operation: Any, parts: Parts, *operands: Any) -> Any:
    """Axes are put in order, multiplied as matrices, and put in order again.

    The axes of both operands and of the result make the batch of the product; those of
    both operands alone are summed over.
    """
    if len(operands) != 2:
        raise StaysFloat(f"it multiplies {len(operands)} tensors at once", _FIX)
    left, right, made = _terms(operation.subscripts, *operands)
    if any(not isinstance(one, keras.KerasTensor) for one in operands):
        return _with_constant(parts, left, right, made, *operands)
    first, second = operands
    if _comes_first(right, left, made):
        # The converter turns the product round where its axes are exchanged.
        left, right, first, second = right, left, second, first
    batch = [axis for axis in left if axis in right and axis in made]
    summed = [axis for axis in left if axis in right and axis not in made]
    rows = [axis for axis in left if axis not in right]
    columns = [axis for axis in right if axis not in left]
    if not summed or {*rows, *columns} - {*made}:
        raise StaysFloat("it is no product of matrices", _FIX)
    if not left[0] == right[0] == made[0]:
        raise StaysFloat("it moves the samples of a batch", _FIX)
    sizes = dict(zip(left + right, (*first.shape, *second.shape)))
    x = _ordered(first, left, [batch, rows, summed], sizes)
    y = _ordered(second, right, [batch, summed, columns], sizes)
    product = ops.matmul(x, y)
    axes = [*batch, *rows, *columns]
    if len(product.shape) != len(axes):
        product = ops.reshape(product, _shape([sizes[axis] for axis in axes]))
    return _transposed(product, [axes.index(axis) for axis in made])


def _comes_first(one: str, other: str, made: str) -> bool:
    """Returns whether the result begins with an axis that only `one` has."""
    alone = [axis for axis in made if (axis in one) != (axis in other)]
    return bool(alone) and alone[0] in one


def _terms(subscripts: str, first: Any, second: Any) -> tuple[str, str, str]:
    """Returns the axes of both operands and of the result; "..." becomes letters."""
    equation = Equation.of(subscripts)
    if not equation.is_whole:
        raise StaysFloat("its equation does not say what comes out", "add `->`")
    ranks = len(first.shape), len(second.shape)
    hidden = zip(equation.terms, equation.hidden(ranks))
    if len({count for term, count in hidden if "..." in term}) > 1:
        raise StaysFloat("its `...` stands for different numbers of axes", _FIX)
    equation = equation.spelled(ranks)
    (left, right), made = equation.terms, equation.target
    if any(len({*term}) < len(term) for term in (left, right, made)):
        raise StaysFloat("it takes a diagonal", _FIX)
    return left, right, made


def _with_constant(
    parts: Parts, left: str, right: str, made: str, first: Any, second: Any
) -> Any:
    """A product with a fixed array is an EinsumDense layer that does not train."""
    if isinstance(second, keras.KerasTensor):
        left, right, first, second = right, left, second, first
    kernel = ops.convert_to_numpy(ops.convert_to_tensor(second)).astype("float32")
    sizes = dict(zip(left + right, (*first.shape, *kernel.shape)))
    layer = parts(
        layers.EinsumDense,
        weights=[kernel],
        equation=f"{left},{right}->{made}",
        output_shape=tuple(sizes[axis] for axis in made[1:]),
        trainable=False,
    )
    return layer(first)


def _ordered(x: Any, axes: str, groups: list[list[str]], sizes: dict) -> Any:
    """Returns a tensor with the axes of each group but the batch in one."""
    order = [axis for group in groups for axis in group]
    x = _transposed(x, [axes.index(axis) for axis in order])
    batch, *others = groups
    if all(len(group) == 1 for group in others):
        return x
    inner = [_size([sizes[axis] for axis in group]) for group in others]
    return ops.reshape(x, _shape([*(sizes[axis] for axis in batch), *inner]))


def _size(sizes: list[int | None]) -> int | None:
    if len(sizes) > 1 and None in sizes:
        raise StaysFloat("it multiplies over axes of free sizes", "give them sizes")
    return sizes[0] if len(sizes) == 1 else math.prod(sizes)  # type: ignore[arg-type]


def _shape(sizes: list[int | None]) -> tuple[int, ...]:
    if None in sizes[1:]:
        raise StaysFloat("it multiplies over axes of free sizes", "give them sizes")
    return (-1, *sizes[1:])  # type: ignore[arg-type]


def _transposed(x: Any, order: list[int]) -> Any:
    return x if order == [*np.sort(order)] else ops.transpose(x, order)
