"""What integer kernels do beyond their flow: a row for each operation that has more.

The rows stand in the table of layer types, in the column `integers`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.core.graph import Node
from tfcompress.layers import cell, fill
from tfcompress.quantization.activations import kernel_of
from tfcompress.quantization.float_border import FloatBorder
from tfcompress.quantization.integers.average import IntegerAverage
from tfcompress.quantization.integers.prelu import IntegerPReLU, slopes_as_stored
from tfcompress.quantization.integers.resize import IntegerResize
from tfcompress.quantization.integers.sums import (
    IntegerAdd,
    SumScales,
    clip_scales,
    lookup_scales,
    mean_scales,
    number_scales,
)
from tfcompress.quantization.primitives import AddConstant, AddWeight

_LAST = "channels_last"

Roundings = list[Any]
Rounding = Callable[[Node, Roundings, Any], Node | SumScales | None]
"""`(node, given, made) -> how the kernel rounds what it computes`.

`given` are the `FakeQuantize` of the node's inputs, `None` for what comes unrounded.
`made` is the one of its output, of 8 bits; what averages within the step of its input
may have none. It returns a node that computes with integers in place of the given one,
or the scales by which a sum behind the node is rounded, or `None` to leave it.
"""


@dataclasses.dataclass(frozen=True)
class IntegerKernel:
    """What the integer kernel of an operation does beyond what its flow says.

    Attributes:
        rounding: how it rounds what it computes; None where that is one rounding of
            what Keras computes.
        clips: whether it applies a ReLU behind it by itself. `None`: as its flow says.
        sixteen_bits: whether the converter has a form for activations of 16 bits.
        symmetric_factor: whether its second factor must have its zero in the middle.
    """

    rounding: Rounding | None = None
    clips: bool | None = None
    sixteen_bits: bool = True
    symmetric_factor: bool = False


_PLAIN = IntegerKernel()


def integer_kernel(operation: Any) -> IntegerKernel:
    """Returns what the integer kernel of an operation does beyond its flow.

    Example:

    >>> integer_kernel(layers.Add()).clips
    True
    """
    return cell(operation, "integers") or _PLAIN


def rounding_of(operation: Any) -> Rounding | None:
    """Returns how the kernel of an operation, or of its activation, rounds."""
    own = integer_kernel(operation).rounding
    if own is not None:
        return own
    activation = kernel_of(operation)
    if activation.looked_up:
        return _as_lookup
    return _as_clip if activation.clamps and activation.nonnegative else None


def _as_number(node: Node, given: Roundings, made: Any) -> SumScales:
    """What is computed in float is rounded as an input of the model is."""
    return number_scales(made)


def _as_lookup(node: Node, given: Roundings, made: Any) -> SumScales | None:
    return None if None in given else lookup_scales(made)


def _as_clip(node: Node, given: Roundings, made: Any) -> SumScales | None:
    return None if None in given else clip_scales(given[0], made)


def _as_product(node: Node, given: Roundings, made: Any) -> SumScales | None:
    first, last = given[0], given[-1]
    if first is None or last is None or None in given:
        return None
    steps = [first.step(), last.step(), made.step()]
    source, factor, target = map(np.float32, steps)
    sum_step = steps[0] * steps[1]
    if integer_kernel(node.operation).symmetric_factor and last.zero_point() != 0:
        # XNNPACK multiplies only by matrices whose zero is the integer 0.
        exact = float(source * factor) / float(target)
        return SumScales(sum_step, exact, fixed_point=True)
    return SumScales(sum_step, float(source * factor / target))


def _as_mean(node: Node, given: Roundings, made: Any) -> SumScales | None:
    read, written = node.inputs[0].shape[1:], node.output.shape[1:]
    last = getattr(node.operation, "data_format", _LAST) == _LAST
    if None in given or None in read or not last:
        return None
    count = math.prod(filter(None, read)) // math.prod(filter(None, written))
    return mean_scales(given[0], made, count)


def _as_addition(node: Node, given: Roundings, made: Any) -> Node | None:
    steps = [one.step() for one in given if one is not None]
    if len(given) != 2 or len(steps) != 2:
        return None
    subtract = isinstance(node.operation, layers.Subtract)
    layer = IntegerAdd((steps[0], steps[1]), made.step(), subtract, name=node.name)
    return dataclasses.replace(node, operation=layer)


def _as_shift(node: Node, given: Roundings, made: Any) -> Node | None:
    if given[0] is None:
        return None
    config = {**node.operation.get_config(), "steps": (given[0].step(), made.step())}
    return dataclasses.replace(node, operation=AddConstant.from_config(config))


def _as_prelu(node: Node, given: Roundings, made: Any) -> Node | None:
    layer, source = node.operation, given[0]
    if not _is_narrow(source):
        return None
    slopes, step = slopes_as_stored(ops.convert_to_numpy(layer.alpha))
    wrapped = IntegerPReLU(_in_float32(layer), (source.step(), step, made.step()))
    return dataclasses.replace(node, operation=wrapped, weights=lambda: [slopes])


def _as_average(node: Node, given: Roundings, made: Any) -> Node | None:
    layer, source = node.operation, given[0]
    if not _is_narrow(source) or layer.data_format != _LAST:
        return None
    step = float(np.float32(source.step()))
    wrapped = IntegerAverage(_in_float32(layer), step, source.zero_point())
    return dataclasses.replace(node, operation=wrapped)


def _as_resized(node: Node, given: Roundings, made: Any) -> Node | None:
    layer, source = node.operation, given[0]
    free = None in (*node.inputs[0].shape[1:], *node.output.shape[1:])
    plain = layer.interpolation == "bilinear" and layer.data_format == _LAST
    if not _is_narrow(source) or free or not plain:
        return None
    # Of a Resizing: what is not one resizing of the whole picture.
    more = ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias")
    if any(getattr(layer, name, False) for name in more):
        return None
    step = float(np.float32(source.step()))
    wrapped = IntegerResize(_in_float32(layer), step)
    return dataclasses.replace(node, operation=wrapped, kwargs={})


def _is_narrow(rounding: Any) -> bool:
    return rounding is not None and rounding.num_bits <= 8


def _in_float32(layer: Any) -> Any:
    return type(layer).from_config({**layer.get_config(), "dtype": "float32"})


_ADDITION = IntegerKernel(_as_addition, clips=True)
fill((layers.Add, layers.Subtract), integers=_ADDITION)
fill((layers.Multiply,), integers=IntegerKernel(_as_product, clips=True))
fill(("Matmul",), integers=IntegerKernel(_as_product, symmetric_factor=True))
_MEANS = (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, "Mean")
fill(_MEANS, integers=IntegerKernel(_as_mean))
_AVERAGES = (layers.AveragePooling1D, layers.AveragePooling2D)
fill(_AVERAGES, integers=IntegerKernel(_as_average))
fill((layers.Resizing,), integers=IntegerKernel(_as_resized))
fill((FloatBorder,), integers=IntegerKernel(_as_number))
# The converter leaves these in float where an activation is fused into them.
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)
fill(_TRANSPOSED, integers=IntegerKernel(clips=False))

# Measured: the converter refuses these with activations of 16 bits.
fill((layers.UpSampling2D,), integers=IntegerKernel(_as_resized, sixteen_bits=False))
fill((layers.PReLU,), integers=IntegerKernel(_as_prelu, sixteen_bits=False))
fill((AddConstant,), integers=IntegerKernel(_as_shift, sixteen_bits=False))
EIGHT_BITS = IntegerKernel(sixteen_bits=False)
_OF_EIGHT_BITS: tuple[type | str, ...] = (
    *(layers.Concatenate, layers.UpSampling1D, AddWeight),
    *("Concatenate", "DepthToSpace", "Repeat", "Roll", "SpaceToDepth", "Tile"),
    *("Where", "Greater", "GreaterEqual", "Less", "LessEqual", "Equal"),
    *("NotEqual", "Flip"),
)
fill(_OF_EIGHT_BITS, integers=EIGHT_BITS)
