"""What a Core ML program computes, without Core ML.

Only macOS and iOS run programs. coremltools knows for most operators what they make of
constants, so a program is evaluated by giving its inputs as constants; the few
operators of CNNs that it does not compute are computed here. It shows what converters
do wrong, and nothing of what Core ML itself may do.
"""

from typing import Any

import numpy as np


class NotEvaluated(Exception):
    """An operator that nothing here computes; its type is the argument."""


def evaluate(program: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the outputs of a program's `main`, by name.

    Args:
        program: a program of coremltools.
        feeds: its inputs by name.

    Raises:
        NotEvaluated: if an operator is not computed by coremltools or here.
    """
    main = program.functions["main"]
    for name, variable in main.inputs.items():
        _give(variable, feeds[name])
    for operator in main.operations:
        kind = operator.op_type
        if kind == "const":
            value = operator.outputs[0].val
            if isinstance(value, np.bool_):  # which NumPy takes for no option
                operator.outputs[0]._sym_val.val = bool(value)
            continue
        if hasattr(operator, "materialized_val_inference"):
            found = operator.materialized_val_inference()
        elif kind in _OWN:
            found = _OWN[kind](operator)
        else:
            try:
                found = operator.value_inference()
            except Exception as error:  # whatever NumPy says of what it cannot do
                raise NotEvaluated(f"{kind} ({error})") from error
        if found is None:
            raise NotEvaluated(kind)
        many = isinstance(found, list | tuple)
        for variable, value in zip(operator.outputs, found if many else [found]):
            _give(variable, value)
    return {variable.name: np.array(variable.val) for variable in main.outputs}


def _give(variable: Any, value: Any) -> None:
    """Lets operators that read a variable find a value in it."""
    holder = variable.sym_type()
    array = np.asarray(value)
    from coremltools.converters.mil.mil import types

    kind = types.nptype_from_builtin(variable.dtype)
    array = array.astype(kind) if array.dtype != kind else array
    holder.val = array if variable.rank else array.reshape(())[()]
    variable._sym_val = holder


def _value(operator: Any, name: str, default: Any = None) -> Any:
    given = operator.inputs.get(name)
    return default if given is None or given.val is None else given.val


def _padding(operator: Any, sizes: tuple, kernel: Any, steps: Any, holes: Any) -> list:
    """Returns how many zeros stand before and after each axis."""
    kind, count = _value(operator, "pad_type"), len(kernel)
    if kind == "valid":
        return [(0, 0)] * count
    if kind == "custom":
        return [tuple(pair) for pair in np.reshape(_value(operator, "pad"), (-1, 2))]
    spans = (np.asarray(kernel) - 1) * holes + 1
    wanted = [
        max((-(-n // step) - 1) * step + span - n, 0)
        for n, step, span in zip(sizes, steps, spans)
    ]
    halves = [(n // 2, n - n // 2) for n in wanted]
    return [(b, a) for a, b in halves] if kind == "same_lower" else halves


def _windows(x: np.ndarray, kernel: Any, steps: Any, holes: Any) -> np.ndarray:
    """Returns windows of the last axes, whose own axes are the last of the result."""
    count = len(kernel)
    axes = tuple(range(x.ndim - count, x.ndim))
    spans = tuple((np.asarray(kernel) - 1) * holes + 1)
    found = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
    whole = [slice(None)] * (x.ndim - count)
    starts = [slice(None, None, int(step)) for step in steps]
    inside = [slice(None, None, int(hole)) for hole in holes]
    return found[tuple(whole + starts + inside)]


def _conv(operator: Any) -> np.ndarray:
    x, weight = operator.x.val, operator.weight.val
    count = x.ndim - 2
    ones = np.ones(count, "int32")
    steps = _value(operator, "strides", ones)
    holes = _value(operator, "dilations", ones)
    groups = int(_value(operator, "groups", 1))
    kernel = weight.shape[2:]
    pads = _padding(operator, x.shape[2:], kernel, steps, holes)
    windows = _windows(np.pad(x, [(0, 0), (0, 0), *pads]), kernel, steps, holes)
    places = windows.shape[2 : 2 + count]
    # Batch, group, channel, places, kernel; and group, filter, channel, kernel.
    windows = windows.reshape(len(x), groups, -1, *windows.shape[2:])
    filters = weight.reshape(groups, -1, *weight.shape[1:])
    inner = [2, *range(3 + count, 3 + 2 * count)]
    parts = [
        np.tensordot(
            windows[:, g],
            filters[g],
            ([axis - 1 for axis in inner], list(range(1, filters[g].ndim))),
        )
        for g in range(groups)
    ]
    made = np.moveaxis(np.concatenate(parts, -1), -1, 1)
    made = made.reshape(len(x), -1, *places)
    bias = _value(operator, "bias")
    if bias is not None:
        made = made + bias.reshape(-1, *([1] * count))
    return made


def _pool(operator: Any) -> np.ndarray:
    x, kernel = operator.x.val, _value(operator, "kernel_sizes")
    count = len(kernel)
    ones = np.ones(count, "int32")
    steps = _value(operator, "strides", ones)
    if _value(operator, "ceil_mode", False):
        raise NotEvaluated(f"{operator.op_type} with ceil_mode")
    pads = [(0, 0), (0, 0), *_padding(operator, x.shape[2:], kernel, steps, ones)]
    axes = tuple(range(-count, 0))
    if operator.op_type == "max_pool":
        lowest = np.finfo(x.dtype).min if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        padded = np.pad(x, pads, constant_values=lowest)
        return _windows(padded, kernel, steps, ones).max(axes)
    total = _windows(np.pad(x, pads), kernel, steps, ones).sum(axes)
    if not _value(operator, "exclude_padding_from_average", False):
        return total / x.dtype.type(np.prod(kernel))
    inside = np.pad(np.ones_like(x), pads)
    return total / _windows(inside, kernel, steps, ones).sum(axes)


def _batch_norm(operator: Any) -> np.ndarray:
    x = operator.x.val
    shape = (-1, *([1] * (x.ndim - 2)))
    mean, variance = operator.mean.val, operator.variance.val
    scale = _value(operator, "gamma", np.ones_like(mean))
    scale = scale / np.sqrt(variance + _value(operator, "epsilon", 1e-5))
    shift = _value(operator, "beta", np.zeros_like(mean))
    return (x - mean.reshape(shape)) * scale.reshape(shape) + shift.reshape(shape)


def _silu(operator: Any) -> np.ndarray:
    x = operator.x.val
    return x / (1 + np.exp(-x))


def _copied(operator: Any) -> np.ndarray:
    return operator.x.val


_OWN = {
    "avg_pool": _pool,
    "batch_norm": _batch_norm,
    "conv": _conv,
    "identity": _copied,
    "max_pool": _pool,
    "silu": _silu,
}
