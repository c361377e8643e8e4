"""TensorFlow functions that Keras 2 recorded as layers, and what they are in Keras 3.

In Keras 2 a model of `tf.nn.relu(2.0 * x)` has layers of the class `TFOpLambda` that
name a function. The names are looked up here, never imported. The arguments have the
names that TensorFlow gives them, those of `tf.compat.v1` included: an argument that is
not taken here is refused, so that none is left out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from keras import ops

from tfcompress.core.errors import UnsupportedLayerError
from tfcompress.interop import functions
from tfcompress.interop.sizes import (
    UNKNOWN,
    as_number,
    has_tensor,
    is_unknown,
    reshaped,
    sizes_of,
)

# Of tensors, and of sizes, which are numbers.
_ARITHMETIC = {
    "add": (ops.add, operator.add),
    "subtract": (ops.subtract, operator.sub),
    "sub": (ops.subtract, operator.sub),
    "multiply": (ops.multiply, operator.mul),
    "mul": (ops.multiply, operator.mul),
    "divide": (ops.divide, operator.truediv),
    "truediv": (ops.divide, operator.truediv),
    "floordiv": (ops.floor_divide, operator.floordiv),
    "floormod": (ops.mod, operator.mod),
    "mod": (ops.mod, operator.mod),
    "pow": (ops.power, operator.pow),
}
_COMPARISONS = (
    *("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"),
    *("logical_and", "logical_or", "logical_xor", "maximum", "minimum"),
)
_OF_ONE = (
    *("abs", "exp", "log", "negative", "rsqrt", "sqrt", "square", "sigmoid", "tanh"),
    *("sin", "cos", "tan", "floor", "ceil", "round", "sign", "erf", "log1p", "expm1"),
    *("softplus", "reciprocal", "log_sigmoid", "logical_not", "isnan", "sinh", "cosh"),
)
_ACTIVATIONS = (
    *("relu", "relu6", "elu", "selu", "silu", "sigmoid", "tanh", "softplus"),
    "softsign",
)
_REDUCTIONS = {
    **{name: getattr(ops, name) for name in ("mean", "sum", "max", "min", "prod")},
    **{name: getattr(ops, name) for name in ("any", "all", "logsumexp")},
    "std": ops.std,
    "variance": ops.var,
    "euclidean_norm": lambda x, axis, keepdims: functions.norm(x, 2, axis, keepdims),
}
FUNCTIONS: dict[str, Callable] = {
    **{
        f"{place}.{name}": functions.binary(*both)
        for place in ("math", "__operators__")
        for name, both in _ARITHMETIC.items()
    },
    **{f"math.{name}": functions.binary(getattr(ops, name)) for name in _COMPARISONS},
    **{f"math.{name}": functions.unary(getattr(ops, name)) for name in _OF_ONE},
    **{f"nn.{name}": functions.unary(getattr(ops, name)) for name in _ACTIVATIONS},
    **{
        f"math.reduce_{name}": functions.reduction(one)
        for name, one in _REDUCTIONS.items()
    },
    **{
        f"math.{name}": functions.unary(getattr(ops, f"arc{name[1:]}"))
        for name in ("atan",)
    },
    "math.add_n": functions.add_n,
    "math.argmax": functions.extreme(ops.argmax),
    "math.argmin": functions.extreme(ops.argmin),
    "math.cumsum": functions.cumsum,
    "math.divide_no_nan": functions.binary(ops.divide_no_nan),
    "math.l2_normalize": functions.l2_normalize,
    "math.squared_difference": functions.binary(lambda x, y: ops.square(x - y)),
    "math.top_k": functions.top_k,
    "nn.avg_pool": functions.pool(ops.average_pool),
    "nn.avg_pool2d": functions.pool(ops.average_pool),
    "nn.bias_add": functions.bias_add,
    "nn.conv2d": functions.conv,
    "nn.depth_to_space": functions.blocks(ops.depth_to_space),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.log_softmax": functions.softmax(ops.log_softmax),
    "nn.max_pool": functions.pool(ops.max_pool),
    "nn.max_pool2d": functions.pool(ops.max_pool),
    "nn.softmax": functions.softmax(ops.softmax),
    "nn.space_to_depth": functions.blocks(ops.space_to_depth),
    "nn.swish": functions.unary(ops.silu),
    "image.flip_left_right": lambda image: ops.flip(image, -2),
    "image.flip_up_down": lambda image: ops.flip(image, -3),
    "image.resize": functions.resize,
    "linalg.band_part": functions.band_part,
    "linalg.matmul": functions.matmul,
    "linalg.matrix_transpose": lambda a: ops.swapaxes(a, -1, -2),
    "linalg.norm": functions.norm,
    "norm": functions.norm,
    "cast": functions.cast,
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "concat": functions.concat,
    "floor_div": functions.binary(*_ARITHMETIC["floordiv"]),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "fill": functions.fill,
    "gather": functions.gather,
    "identity": functions.unary(ops.copy),
    "one_hot": functions.one_hot,
    "ones_like": lambda input: ops.ones_like(input),
    "pad": functions.padded,
    "range": functions.numbers,
    "repeat": lambda input, repeats, axis=None: ops.repeat(input, repeats, axis),
    "reshape": lambda tensor, shape: reshaped(tensor, shape),
    "reverse": lambda tensor, axis: ops.flip(tensor, functions.axes_of(axis)),
    "roll": lambda input, shift, axis: ops.roll(
        input, functions.axes_of(shift), functions.axes_of(axis)
    ),
    "sequence_mask": functions.sequence_mask,
    "shape": lambda input, out_type=None: sizes_of(input),
    "slice": functions.cut,
    "sort": functions.in_order,
    "split": functions.split,
    "squeeze": functions.squeeze,
    "stack": functions.stack,
    "stop_gradient": functions.unary(ops.stop_gradient),
    "strided_slice": functions.strided_slice,
    "tensordot": lambda a, b, axes: ops.tensordot(a, functions.array_of(b, a), axes),
    "tile": functions.tile,
    "transpose": lambda a, perm=None: ops.transpose(a, perm),
    "unstack": lambda value, num=None, axis=0: ops.unstack(value, num, axis),
    "where": functions.where,
    "zeros_like": lambda input: ops.zeros_like(input),
    "__operators__.getitem": functions.getitem,
    "_operators_.getitem": functions.getitem,
}
# Of what is not known before the model runs, these can be computed nevertheless.
_ON_SIZES = (
    "reshape",
    "stack",
    "concat",
    "__operators__.getitem",
    "_operators_.getitem",
)
# They change nothing unless they are set.
_UNUSED = ("validate_indices", "conjugate")


def call_operation(entry: dict[str, Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Returns what the function of a `TFOpLambda` gives for symbolic tensors."""
    called = entry["config"].get("function", entry["class_name"])
    # tf.transpose and others are recorded as the older function that they call.
    name = called.removeprefix("compat.v1.").removeprefix("compat.v2.")
    function = FUNCTIONS.get(name)
    if function is None:
        raise UnsupportedLayerError(
            f"Layer '{entry['name']}' of Keras 2 is a TensorFlow function that has no "
            "known equal in Keras 3.",
            received=f"tf.{called}",
            expected=f"one of {', '.join(sorted(FUNCTIONS))}",
            fix="replace it by a layer in Keras 2, and save the model again",
        )
    kwargs = {
        key: value
        for key, value in kwargs.items()
        if value is not None and (key not in _UNUSED or value)
    }
    if is_unknown((args, kwargs)) and name not in _ON_SIZES:
        if has_tensor((args, kwargs)) or name.split(".")[-1] not in (
            *_ARITHMETIC,
            "cast",
        ):
            raise ValueError(f"tf.{called} of {UNKNOWN}")
        return UNKNOWN
    result = function(args, **kwargs)
    return result if has_tensor((args, kwargs)) else as_number(result)
