"""Convolutions: kernels (out, in, height, width) become (height, width, in, out)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.operators.windows import padded, windows_of
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value, channels_last

_PLAIN = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
_DEPTHWISE = {1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D}
_TRANSPOSED = {
    1: layers.Conv1DTranspose,
    2: layers.Conv2DTranspose,
    3: layers.Conv3DTranspose,
}
_CROPPING = {1: layers.Cropping1D, 2: layers.Cropping2D, 3: layers.Cropping3D}


@operator("Conv")
def convolution(call: Call) -> Value:
    value, kernel, bias = call.value(), call.constant(1), call.constant(2, None)
    _check(value, kernel)
    windows = windows_of(call, value.shape[2:], kernel.shape[2:])
    tensor = value.laid(channels_last(value.rank))
    tensor = padded(call, tensor, windows)
    channels, groups = value.shape[1], call.attribute("group", 1)
    depthwise = groups == channels > 1 and windows.rank in _DEPTHWISE
    # Neither Keras nor TensorFlow's kernels take these in one: every position is
    # computed, and those between are left out.
    strides = windows.strides
    leaves_out = max(strides) > 1 and (
        max(windows.dilations) > 1 or (depthwise and len(set(strides)) > 1)
    )
    weights = [_depthwise(kernel, groups) if depthwise else _plain(kernel)]
    weights += [] if bias is None else [bias]
    config: dict[str, Any] = {
        "kernel_size": windows.kernel,
        "strides": (1,) * windows.rank if leaves_out else strides,
        "padding": "same" if windows.is_same and not leaves_out else "valid",
        "dilation_rate": windows.dilations,
        "use_bias": bias is not None,
    }
    if leaves_out and windows.is_same:
        raise Refused("strides and dilations with auto_pad", "pads in numbers")
    if depthwise:
        config["depth_multiplier"] = kernel.shape[0] // groups
    else:
        config |= {"filters": kernel.shape[0], "groups": groups}
    kinds = _DEPTHWISE if depthwise else _PLAIN
    tensor = call.weighted(kinds[windows.rank], tensor, weights, **config)
    if leaves_out:
        steps = (slice(None, None, step) for step in strides)
        tensor = tensor[(slice(None), *steps)]
    return _result(call, tensor, value, kernel.shape[0], windows.sizes)


@operator("ConvTranspose")
def transposed(call: Call) -> Value:
    value, kernel, bias = call.value(), call.constant(1), call.constant(2, None)
    _check(value, kernel)
    groups = call.attribute("group", 1)
    windows = windows_of(call, value.shape[2:], kernel.shape[2:], transposed=True)
    weights = [_transposed(kernel, groups)]
    filters = weights[0].shape[-2]
    # What Keras makes without padding, of which some is cut off on both sides.
    reach = [d * (k - 1) + 1 for d, k in zip(windows.dilations, windows.kernel)]
    whole = [
        (size - 1) * step + max(one, step)
        for size, step, one in zip(value.shape[2:], windows.strides, reach)
    ]
    cut = [
        (before, full - before - size)
        for before, full, size in zip(windows.before, whole, windows.sizes)
    ]
    if min(map(min, cut)) < 0:
        raise Refused(
            f"output_padding {call.attribute('output_padding', None)}",
            "no more than is cut off by pads",
        )
    same = all(
        size == before * step and first == max(one - step, 0) // 2
        for size, before, step, first, one in zip(
            windows.sizes, value.shape[2:], windows.strides, windows.before, reach
        )
    )
    tensor = call.weighted(
        _TRANSPOSED[windows.rank],
        value.laid(channels_last(value.rank)),
        weights + ([] if bias is None else [bias]),
        filters=filters,
        kernel_size=windows.kernel,
        strides=windows.strides,
        padding="same" if same else "valid",
        dilation_rate=windows.dilations,
        use_bias=bias is not None,
    )
    if not same and max(map(max, cut)):
        amount = cut[0] if windows.rank == 1 else cut
        tensor = call.layer(_CROPPING[windows.rank], tensor, "_crop", cropping=amount)
    return _result(call, tensor, value, filters, windows.sizes)


def _check(value: Value, kernel: np.ndarray) -> None:
    rank = value.rank - 2
    if rank not in _PLAIN or kernel.ndim != value.rank:
        raise Refused(
            f"{rank} axes of space and a kernel of shape {kernel.shape}", "1 to 3 axes"
        )
    if min(kernel.shape) < 1:
        raise Refused(f"a kernel of shape {kernel.shape}", "at least one channel")


def _plain(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose([*range(2, kernel.ndim), 1, 0])


def _depthwise(kernel: np.ndarray, groups: int) -> np.ndarray:
    space = kernel.shape[2:]
    moved = kernel.reshape(groups, -1, *space)
    return moved.transpose([*range(2, 2 + len(space)), 0, 1])


def _transposed(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Returns the kernel (..., out, in), with zeros between groups: Keras has none."""
    before, after = kernel.shape[:2]
    whole = np.zeros((before, after * groups, *kernel.shape[2:]), kernel.dtype)
    size = before // groups
    for group in range(groups):
        own = slice(group * size, (group + 1) * size)
        whole[own, group * after : (group + 1) * after] = kernel[own]
    return whole.transpose([*range(2, kernel.ndim), 1, 0])


def _result(
    call: Call, tensor: Any, value: Value, filters: int, sizes: tuple[int, ...]
) -> Value:
    shape = (value.shape[0], filters, *sizes)
    found = tuple(tensor.shape)[1:-1]
    if found != tuple(sizes) or math.prod(sizes) < 1:
        raise Refused(f"an output of shape {found} instead of {sizes}", "known pads")
    return call.plain(tensor, shape, channels_last(len(shape)))
