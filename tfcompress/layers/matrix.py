"""Layers whose kernel is a matrix that is multiplied with rows: what the rows are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.equation import Equation
from tfcompress.core.types import AnyTensor
from tfcompress.layers.rules import cell, fill


@dataclasses.dataclass(frozen=True)
class Matrix:
    """How a layer multiplies rows with its kernel.

    When to use: in the column `matrix` of a `LayerRule`, so that `reconstruct`,
    `factorize(data=)` and rounding by reconstruction know a layer of your own.

    Attributes:
        rows: `(layer, inputs) -> rows`, the inputs as an array of shape `(n, summed)`;
            the sum over a row times the kernel matrix is an output.
        reason: `(layer) -> str`, why the layer is not of this form as it is configured,
            "their convolution has groups"; `None` where it is.

    Example:

    >>> by_last_axis = Matrix(lambda layer, x: x.reshape(-1, x.shape[-1]))
    >>> by_last_axis.rows(None, np.ones((2, 3, 4))).shape
    (6, 4)
    """

    rows: Callable[[Any, Any], np.ndarray]
    reason: Callable[[Any], str | None] = lambda layer: None


def reason_against(layer: keras.Layer) -> str | None:
    """Returns why a layer's kernel is not simply multiplied with rows, or `None`."""
    matrix = cell(layer, "matrix")
    if matrix is None:
        return "least squares knows Dense, Conv1D, Conv2D and EinsumDense only"
    return matrix.reason(layer)


def rows(layer: keras.Layer, inputs: AnyTensor) -> np.ndarray:
    """Returns the inputs as (n, rows of the kernel matrix), float32."""
    inputs = ops.cast(ops.convert_to_tensor(inputs), "float32")
    return np.asarray(ops.convert_to_numpy(cell(layer, "matrix").rows(layer, inputs)))


def kernel_matrix(layer: Any) -> np.ndarray:
    """Returns a layer's kernel as the matrix that multiplies `rows(layer, x)`."""
    kernel = np.asarray(layer.kernel, "float32")
    if not isinstance(layer, layers.EinsumDense):
        return kernel.reshape(-1, kernel.shape[-1])
    _, axes, outputs = _terms(layer)
    summed = [axis for axis in axes if axis not in outputs]
    kept = [axis for axis in axes if axis in outputs]
    size = math.prod(kernel.shape[axes.index(axis)] for axis in summed)
    order = [axes.index(axis) for axis in [*summed, *kept]]
    return kernel.transpose(order).reshape(size, -1)


def _by_last_axis(layer: Any, inputs: AnyTensor) -> AnyTensor:
    return ops.reshape(inputs, (-1, inputs.shape[-1]))


def _patches(layer: Any, inputs: AnyTensor) -> AnyTensor:
    """The unfolded patches of a convolution, in the order of its kernel."""
    window, strides = layer.kernel_size, layer.strides
    dilation = layer.dilation_rate
    if isinstance(layer, layers.Conv1D):
        inputs = ops.expand_dims(inputs, 1)
        window, strides, dilation = (1, *window), (1, *strides), (1, *dilation)
    inputs = ops.image.extract_patches(
        inputs,
        size=window,
        strides=strides,
        dilation_rate=dilation,
        padding=layer.padding,
        data_format="channels_last",
    )
    return _by_last_axis(layer, inputs)


def _reason_against_convolution(layer: Any) -> str | None:
    if layer.groups > 1:
        return "their convolution has groups"
    if layer.data_format != "channels_last":
        return "their channels come first"
    if layer.padding == "causal":
        return "their padding is causal"
    return None


def _summed_last(layer: Any, inputs: AnyTensor) -> AnyTensor:
    terms, kernel, outputs = _terms(layer, len(inputs.shape))
    summed = [axis for axis in kernel if axis not in outputs]
    order = [axis for axis in terms if axis not in summed] + summed
    inputs = ops.transpose(inputs, [terms.index(axis) for axis in order])
    size = math.prod(inputs.shape[len(order) - len(summed) :])
    return ops.reshape(inputs, (-1, size))


def _reason_against_equation(layer: Any) -> str | None:
    inputs, kernel, outputs = _terms(layer)
    if set(inputs) & set(kernel) & set(outputs):
        return "their equation multiplies a different kernel for each position"
    return None


def _terms(layer: Any, rank: int | None = None) -> tuple[str, ...]:
    """Returns the axes of inputs, kernel and outputs; "..." becomes letters."""
    equation = Equation.of(layer.equation)
    if rank is None:
        equation = equation.named()
    else:
        equation = equation.spelled((rank, len(layer.kernel.shape)))
    return (*equation.terms, equation.target)


fill((layers.Dense,), matrix=Matrix(_by_last_axis))
fill(
    (layers.Conv1D, layers.Conv2D),
    matrix=Matrix(_patches, _reason_against_convolution),
)
fill((layers.EinsumDense,), matrix=Matrix(_summed_last, _reason_against_equation))
