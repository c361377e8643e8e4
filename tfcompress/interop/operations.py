"""TensorFlow functions that Keras 2 recorded as layers, and what they are in Keras 3.

In Keras 2 a model of `tf.nn.relu(2.0 * x)` has layers of the class `TFOpLambda` that
name a function. The names are looked up here, never imported.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from keras import ops

from tfcompress.core.errors import UnsupportedLayerError


def _reduce(function: Callable) -> Callable:
    return lambda input_tensor, axis=None, keepdims=False: function(
        input_tensor, axis=axis, keepdims=keepdims
    )


def _concat(values: Any, axis: int) -> Any:
    return ops.concatenate(values, axis=axis)


def _stack(values: Any, axis: int = 0) -> Any:
    return ops.stack(values, axis=axis)


def _matmul(
    a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False
) -> Any:
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _softmax(logits: Any, axis: int = -1) -> Any:
    return ops.softmax(logits, axis=-1 if axis is None else axis)


def _getitem(tensor: Any, slice_spec: Any) -> Any:
    return tensor[tuple(map(_index, slice_spec))]


def _index(part: Any) -> Any:
    if isinstance(part, dict) and {"start", "stop", "step"} <= set(part):
        return slice(part["start"], part["stop"], part["step"])
    if isinstance(part, dict) and part.get("class_name") == "__ellipsis__":
        return Ellipsis
    return part


def _expand_dims(input: Any, axis: int) -> Any:
    return ops.expand_dims(input, axis)


def _clip(t: Any, clip_value_min: float, clip_value_max: float) -> Any:
    return ops.clip(t, clip_value_min, clip_value_max)


def _cast(x: Any, dtype: str) -> Any:
    return ops.cast(x, dtype)


def _reshape(tensor: Any, shape: Any) -> Any:
    return ops.reshape(tensor, tuple(shape))


def _transpose(a: Any, perm: Any = None) -> Any:
    return ops.transpose(a, perm)


def _binary(function: Callable) -> Callable:
    return lambda x, y: function(x, y)


def _unary(function: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        (tensor,) = (*args, *kwargs.values())  # `x`, `features` or `input`
        return function(tensor)

    return call


FUNCTIONS: dict[str, Callable] = {
    **{
        f"{place}.{name}": _binary(function)
        for place in ("math", "__operators__")
        for name, function in {
            "add": operator.add,
            "subtract": operator.sub,
            "sub": operator.sub,
            "multiply": operator.mul,
            "mul": operator.mul,
            "divide": operator.truediv,
            "truediv": operator.truediv,
            "floordiv": operator.floordiv,
            "pow": operator.pow,
        }.items()
    },
    "math.maximum": _binary(ops.maximum),
    "math.minimum": _binary(ops.minimum),
    "math.squared_difference": lambda x, y: ops.square(x - y),
    **{
        f"math.{name}": _unary(getattr(ops, name))
        for name in (
            *("abs", "exp", "log", "negative", "rsqrt", "sqrt", "square", "sigmoid"),
            *("tanh", "sin", "cos", "floor", "ceil", "round", "sign", "erf"),
        )
    },
    **{
        f"nn.{name}": _unary(getattr(ops, name))
        for name in (
            "relu",
            "relu6",
            "elu",
            "selu",
            "silu",
            "sigmoid",
            "tanh",
            "softplus",
        )
    },
    "nn.swish": _unary(ops.silu),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.softmax": _softmax,
    **{
        f"math.reduce_{name}": _reduce(getattr(ops, name))
        for name in ("mean", "sum", "max", "min", "prod")
    },
    "concat": _concat,
    "stack": _stack,
    "linalg.matmul": _matmul,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": lambda input, axis=None: ops.squeeze(
        input, axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    ),
    "expand_dims": _expand_dims,
    "cast": _cast,
    "clip_by_value": _clip,
    "identity": _unary(ops.copy),
    "__operators__.getitem": _getitem,
    "_operators_.getitem": _getitem,
}


def call_operation(entry: dict[str, Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Returns what the function of a `TFOpLambda` gives for symbolic tensors."""
    name = entry["config"].get("function", entry["class_name"])
    function = FUNCTIONS.get(name)
    if function is None:
        raise UnsupportedLayerError(
            f"Layer '{entry['name']}' of Keras 2 is a TensorFlow function that has no "
            "known equal in Keras 3.",
            received=f"tf.{name}",
            expected=f"one of {', '.join(sorted(FUNCTIONS))}",
            fix="replace it by a layer in Keras 2, and save the model again",
        )
    return function(args, **{k: v for k, v in kwargs.items() if v is not None})
