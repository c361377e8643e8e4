"""Resizing of pictures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value, channels_last

_CENTERS = ("half_pixel", "pytorch_half_pixel")


@operator("Resize", "Upsample")
def resized(call: Call) -> Value:
    value = call.value()
    scales, sizes = _sizes(call, value)
    if sizes[:2] != value.shape[:2] or not 3 <= value.rank <= 5:
        raise Refused(f"a shape of {sizes} of {value.shape}", "axes of space resized")
    if call.attribute("antialias", 0) or call.attribute("exclude_outside", 0):
        raise Refused("antialias or exclude_outside", "neither")
    mode = call.attribute("mode", "nearest")
    where = call.attribute("coordinate_transformation_mode", "half_pixel")
    if call.node.kind == "Upsample" or call.opset < 11:
        where = "asymmetric"
    order = channels_last(value.rank)
    tensor = value.laid(order)
    whole = [n // before for n, before in zip(sizes[2:], value.shape[2:])]
    exact = [w * before for w, before in zip(whole, value.shape[2:])] == [*sizes[2:]]
    if exact and _repeats(call, mode, where):
        tensor = _repeated(call, tensor, whole)
    elif mode == "linear" and where in _CENTERS and value.rank == 4:
        if exact:
            tensor = call.layer(
                layers.UpSampling2D, tensor, size=whole, interpolation="bilinear"
            )
        else:
            height, width = sizes[2:]
            tensor = call.layer(
                layers.Resizing,
                tensor,
                height=height,
                width=width,
                interpolation="bilinear",
            )
    else:
        for axis, (before, after, scale) in enumerate(
            zip(value.shape[2:], sizes[2:], scales[2:]), 1
        ):
            if before != after:
                matrix = _matrix(call, before, after, scale, mode, where)
                tensor = _times(tensor, matrix, axis)
    return call.plain(tensor, sizes, order)


def _sizes(call: Call, value: Value) -> tuple[list[float], tuple[int, ...]]:
    """Returns by how much each axis grows, and to what size."""
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("a keep_aspect_ratio_policy", "stretch")
    axes = call.attribute("axes", [*range(value.rank)])
    upsample = call.node.kind == "Upsample" or call.opset < 11
    given = call.setting("scales", 1 if upsample else 2, None)
    scales = [1.0] * value.rank
    if given:
        for axis, scale in zip(axes, given):
            scales[axis] = float(scale)
        sizes = [math.floor(n * s) for n, s in zip(value.shape, scales)]
        sizes[0] = value.shape[0] if scales[0] == 1 else sizes[0]
        return scales, tuple(sizes)
    wanted = call.constant(3)
    sizes = list(value.shape)
    for axis, size in zip(axes, wanted):
        sizes[axis] = int(size)
    if call.fixed and sizes[0] == call.fixed:
        sizes[0] = value.shape[0]
    return [n / before for n, before in zip(sizes, value.shape)], tuple(sizes)


def _repeats(call: Call, mode: str, where: str) -> bool:
    """Returns whether each pixel is repeated as often as the next."""
    if mode != "nearest":
        return False
    rounding = call.attribute("nearest_mode", "round_prefer_floor")
    if where == "asymmetric":
        return rounding == "floor" or call.node.kind == "Upsample"
    return where in _CENTERS and rounding.startswith("round_prefer")


def _repeated(call: Call, tensor: Any, times: list[int]) -> Any:
    if len(times) == 1:
        return call.layer(layers.UpSampling1D, tensor, size=times[0])
    if len(times) == 2:
        return call.layer(layers.UpSampling2D, tensor, size=times)
    return call.layer(layers.UpSampling3D, tensor, size=times)


def _times(tensor: Any, matrix: np.ndarray, axis: int) -> Any:
    """Returns the tensor with an axis multiplied by a matrix."""
    letters = "abcde"[: len(tensor.shape)]
    source = letters[axis]
    equation = f"{letters},z{source}->{letters.replace(source, 'z')}"
    return ops.einsum(equation, tensor, matrix)


def _matrix(
    call: Call, before: int, after: int, scale: float, mode: str, where: str
) -> np.ndarray:
    """Returns what each pixel of the result takes of those there are."""
    out = np.arange(after, dtype="float64")
    if where in _CENTERS:
        place = (out + 0.5) / scale - 0.5
        if where == "pytorch_half_pixel" and after == 1:
            place = np.zeros(1)
    elif where == "align_corners":
        place = out * (before - 1) / max(after - 1, 1)
    elif where == "asymmetric":
        place = out / scale
    else:
        raise Refused(f"coordinate_transformation_mode {where}", ", ".join(_CENTERS))
    matrix = np.zeros((after, before), "float64")
    for row, weights in enumerate(_shares(call, place, mode)):
        for index, share in weights:
            matrix[row, min(max(index, 0), before - 1)] += share
    return matrix.astype("float32")


def _shares(call: Call, place: np.ndarray, mode: str) -> list[list[tuple[int, float]]]:
    if mode == "nearest":
        rounding = call.attribute("nearest_mode", "round_prefer_floor")
        whole = {
            "round_prefer_floor": np.ceil(place - 0.5),
            "round_prefer_ceil": np.floor(place + 0.5),
            "floor": np.floor(place),
            "ceil": np.ceil(place),
        }[rounding]
        return [[(int(index), 1.0)] for index in whole]
    low = np.floor(place).astype(int)
    part = place - low
    if mode == "linear":
        return [[(i, 1 - p), (i + 1, p)] for i, p in zip(low.tolist(), part.tolist())]
    a = call.attribute("cubic_coeff_a", -0.75)
    return [
        [(i + k, _cubic(abs(p - k), a)) for k in range(-1, 3)]
        for i, p in zip(low.tolist(), part.tolist())
    ]


def _cubic(x: float, a: float) -> float:
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
