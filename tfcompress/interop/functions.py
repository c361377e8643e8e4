"""What TensorFlow functions compute, said in `keras.ops`.

Their arguments have the names that TensorFlow gives them, those of `tf.compat.v1`
included. What has no equal is a `ValueError` that says which option it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tfcompress.interop.sizes import Sizes, as_number, has_tensor

_NHWC = (None, "NHWC", "NWC", "channels_last")


def only(value: Any, allowed: Any, name: str) -> None:
    """Raises `ValueError` for an option whose value has no equal."""
    allowed = allowed if isinstance(allowed, tuple) else (allowed,)
    if value not in allowed:
        raise ValueError(f"{name}={value!r}")


def axes_of(axis: Any) -> Any:
    """Returns an axis or several, as Keras takes them."""
    if isinstance(axis, (list, tuple, np.ndarray)):
        axes = tuple(int(one) for one in axis)
        return axes[0] if len(axes) == 1 else axes
    return axis


def reduction(function: Callable) -> Callable:
    def call(
        input_tensor: Any, axis: Any = None, keepdims: Any = None, keep_dims: Any = None
    ) -> Any:
        keeps = bool(keepdims or keep_dims)
        return function(input_tensor, axis=axes_of(axis), keepdims=keeps)

    return call


def norm(
    tensor: Any,
    ord: Any = "euclidean",
    axis: Any = None,
    keepdims: Any = None,
    keep_dims: Any = None,
) -> Any:
    only(ord, ("euclidean", 2), "ord")
    squares = ops.sum(
        ops.square(tensor), axis=axes_of(axis), keepdims=bool(keepdims or keep_dims)
    )
    return ops.sqrt(squares)


def l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    squares = ops.sum(ops.square(x), axis=axes_of(axis), keepdims=True)
    return x * ops.rsqrt(ops.maximum(squares, epsilon))


def matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a, b = arrays_of(a, b)
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def softmax(function: Callable) -> Callable:
    return lambda logits, axis=-1: function(logits, axis=-1 if axis is None else axis)


def getitem(tensor: Any, slice_spec: Any) -> Any:
    whole = not isinstance(slice_spec, (list, tuple))
    parts = tuple(map(index, [slice_spec] if whole else slice_spec))
    if isinstance(tensor, (tuple, list)):  # the sizes of a tensor
        if len(parts) != 1:
            raise ValueError(f"slice_spec={slice_spec!r} of a shape")
        part = tensor[parts[0]]
        return Sizes(part) if isinstance(part, tuple) else part
    return tensor[parts]


def index(part: Any) -> Any:
    if isinstance(part, dict) and {"start", "stop", "step"} <= set(part):
        return slice(part["start"], part["stop"], part["step"])
    if isinstance(part, dict) and part.get("class_name") == "__ellipsis__":
        return Ellipsis
    return part


def cut(input_: Any, begin: Any, size: Any) -> Any:
    return input_[
        tuple(
            slice(start, None if length == -1 else start + length)
            for start, length in zip(begin, size)
        )
    ]


def strided_slice(
    input_: Any, begin: Any, end: Any, strides: Any = None, **masks: Any
) -> Any:
    for name, value in masks.items():
        only(value, 0, name)
    steps = strides or [1] * len(begin)
    return input_[tuple(map(slice, begin, end, steps))]


def padded(
    tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0
) -> Any:
    mode = mode.lower()
    only(mode, ("constant", "reflect", "symmetric"), "mode")
    pairs = [tuple(int(width) for width in pair) for pair in paddings]
    if mode != "constant":
        return ops.pad(tensor, pairs, mode=mode)
    return ops.pad(tensor, pairs, mode=mode, constant_values=constant_values)


def gather(params: Any, indices: Any, axis: Any = None, batch_dims: int = 0) -> Any:
    axis = batch_dims if axis is None else axis
    if not batch_dims:
        return ops.take(array_of(params), array_of(indices), axis=axis)
    if batch_dims != 1 or axis != 1 or len(indices.shape) != 2:
        raise ValueError(f"axis={axis}, batch_dims={batch_dims}")
    for _ in params.shape[2:]:
        indices = ops.expand_dims(indices, -1)
    return ops.take_along_axis(params, indices, axis=1)


def split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None) -> Any:
    if isinstance(num_or_size_splits, int):
        return ops.split(value, num_or_size_splits, axis=axis)
    sizes = [int(size) for size in num_or_size_splits]
    if -1 in sizes:
        whole = value.shape[axis]
        sizes[sizes.index(-1)] = whole - sum(sizes) - 1
    return ops.split(value, np.cumsum(sizes)[:-1].tolist(), axis=axis)


def where(condition: Any, x: Any, y: Any) -> Any:
    return ops.where(condition, *arrays_of(x, y))


def stack(values: Any, axis: int = 0) -> Any:
    if not has_tensor(values):
        return Sizes(values)
    return ops.stack(values, axis=axis)


def concat(values: Any, axis: int = 0) -> Any:
    if not has_tensor(values):  # of sizes
        return Sizes(size for part in values for size in part)
    return ops.concatenate(values, axis=axis)


def squeeze(input: Any, axis: Any = None, squeeze_dims: Any = None) -> Any:
    axis = axes_of(squeeze_dims if axis is None else axis)
    return ops.squeeze(input, None if axis == () else axis)


def cast(x: Any, dtype: str) -> Any:
    if not has_tensor(x):
        # The name decides: a number stays one.
        whole = dtype.startswith(("int", "uint"))
        return (
            np.asarray(x).astype(dtype).tolist()
            if whole
            else as_number(ops.cast(x, dtype))
        )
    return ops.cast(x, dtype)


def tile(input: Any, multiples: Any) -> Any:
    return ops.tile(input, [int(one) for one in multiples])


def one_hot(
    indices: Any,
    depth: int,
    on_value: Any = None,
    off_value: Any = None,
    axis: int = -1,
    dtype: Any = "float32",
) -> Any:
    only(on_value, (None, 1), "on_value")
    only(off_value, (None, 0), "off_value")
    return ops.one_hot(indices, depth, axis=axis, dtype=dtype)


def numbers(start: Any, limit: Any = None, delta: Any = 1, dtype: Any = None) -> Any:
    start, limit = (0, start) if limit is None else (start, limit)
    whole = all(isinstance(one, int) for one in (start, limit, delta))
    array = np.arange(start, limit, delta)
    return array.astype(dtype or ("int32" if whole else "float32"))


def fill(dims: Any, value: Any) -> Any:
    return np.full(dims, value)


def band_part(input: Any, num_lower: int, num_upper: int) -> Any:
    if num_lower < 0 and num_upper >= 0:
        return ops.tril(input, num_upper)
    if num_upper < 0 and num_lower >= 0:
        return ops.triu(input, -num_lower)
    if num_lower < 0:
        return input
    return ops.triu(ops.tril(input, num_upper), -num_lower)


def in_order(values: Any, axis: int = -1, direction: str = "ASCENDING") -> Any:
    ascending = ops.sort(values, axis=axis)
    only(direction, ("ASCENDING", "DESCENDING"), "direction")
    return ascending if direction == "ASCENDING" else ops.flip(ascending, axis)


def top_k(input: Any, k: int = 1, sorted: bool = True) -> Any:
    return ops.top_k(input, k, sorted)


def extreme(function: Callable) -> Callable:
    def call(
        input: Any, axis: Any = None, dimension: Any = None, output_type: str = "int64"
    ) -> Any:
        axis = dimension if axis is None else axis
        return ops.cast(function(input, 0 if axis is None else axis), output_type)

    return call


def cumsum(
    x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False
) -> Any:
    only(exclusive, False, "exclusive")
    if reverse:
        return ops.flip(ops.cumsum(ops.flip(x, axis), axis), axis)
    return ops.cumsum(x, axis)


def pool(function: Callable) -> Callable:
    def call(
        input: Any = None,
        ksize: Any = 1,
        strides: Any = 1,
        padding: str = "VALID",
        data_format: Any = None,
        value: Any = None,
    ) -> Any:
        x = value if input is None else input
        only(data_format, _NHWC, "data_format")
        only(padding, ("SAME", "VALID"), "padding")
        sizes = [spatial(one, len(x.shape) - 2) for one in (ksize, strides)]
        return function(x, *sizes, padding=padding.lower(), data_format="channels_last")

    return call


def conv(
    input: Any,
    strides: Any = 1,
    padding: str = "VALID",
    data_format: Any = None,
    dilations: Any = 1,
    **kernel: Any,
) -> Any:
    kernel.pop("use_cudnn_on_gpu", None)
    (filters,) = kernel.values()  # `filter` or `filters`
    only(data_format, _NHWC, "data_format")
    only(padding, ("SAME", "VALID"), "padding")
    sizes = [spatial(one or 1, len(input.shape) - 2) for one in (strides, dilations)]
    return ops.conv(
        input,
        array_of(filters, input),
        sizes[0],
        padding.lower(),
        "channels_last",
        sizes[1],
    )


def spatial(sizes: Any, rank: int) -> tuple:
    """Returns the window of a pooling without those of batch and channels."""
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if len(sizes) == rank + 2:
        if sizes[0] != 1 or sizes[-1] != 1:
            raise ValueError(f"a window {sizes} over samples or channels")
        sizes = sizes[1:-1]
    return sizes * rank if len(sizes) == 1 else sizes


def blocks(function: Callable) -> Callable:
    def call(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
        only(data_format, _NHWC, "data_format")
        return function(input, block_size, data_format="channels_last")

    return call


def resize(
    images: Any,
    size: Any,
    method: str = "bilinear",
    preserve_aspect_ratio: bool = False,
    antialias: bool = False,
) -> Any:
    only(method, ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"), "method")
    only(preserve_aspect_ratio, False, "preserve_aspect_ratio")
    size = tuple(int(one) for one in size)
    resized = ops.image.resize(
        images,
        size,
        interpolation=method,
        antialias=antialias,
        data_format="channels_last",
    )
    # TensorFlow rounds to whole numbers for the nearest pixel only.
    return resized if method == "nearest" else ops.cast(resized, "float32")


def bias_add(value: Any, bias: Any, data_format: Any = None) -> Any:
    only(data_format, _NHWC, "data_format")
    return value + array_of(bias, value)


def sequence_mask(lengths: Any, maxlen: Any, dtype: str = "bool") -> Any:
    return ops.cast(ops.greater(ops.expand_dims(lengths, -1), np.arange(maxlen)), dtype)


def add_n(inputs: Any) -> Any:
    total, *rest = inputs
    for one in rest:
        total = total + one
    return total


def array_of(value: Any, like: Any = None) -> Any:
    """Returns a list of numbers as an array, of the type of the tensor `like`."""
    if not isinstance(value, (list, tuple)) or has_tensor(value):
        return value
    array = np.asarray(value, getattr(like, "dtype", None))
    return array.astype("float32") if array.dtype == "float64" else array


def arrays_of(x: Any, y: Any) -> tuple[Any, Any]:
    """Returns both, lists of numbers as arrays of the type of the tensor beside."""
    like = x if has_tensor(x) else y if has_tensor(y) else None
    return array_of(x, like), array_of(y, like)


def binary(function: Callable, of_numbers: Callable | None = None) -> Callable:
    """Returns a function of two tensors, which may be one of two numbers as well."""

    def call(x: Any, y: Any) -> Any:
        chosen = function if has_tensor((x, y)) else of_numbers or function
        return chosen(*arrays_of(x, y))

    return call


def unary(function: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        (tensor,) = (*args, *kwargs.values())  # `x`, `features` or `input`
        return function(tensor)

    return call
