"""mixed_precision: which layers can do with fewer bits."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import integer, number
from tfcompress.core.data import inputs_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.select import walk
from tfcompress.layers import kernels_of, rule_of
from tfcompress.quantization.calibration.calibrate import calibrate
from tfcompress.quantization.calibration.rounding import rounded
from tfcompress.quantization.scheme import owner_path
from tfcompress.quantization.wrapper import QuantizedLayer

_SCHEMES = {8: "w8a8", 4: "w4a8"}


def mixed_precision(
    model: keras.Model,
    data: Any,
    max_bytes: int,
    samples: int = 256,
    *,
    verbose: int = 0,
) -> dict[str, str]:
    """Returns a scheme that gives each layer 8 or 4 bits, to fit into `max_bytes`.

    When to use: where 4 bits everywhere cost too much accuracy and 8 bits are too
    large. Pass the result to `calibrate` or `quantize_aware` as `scheme`.

    Source: the sensitivity analysis of Wang et al., "HAQ", 2019, and Dong et al.,
    "HAWQ", 2019, with outputs in place of the Hessian: the model is calibrated at 8
    bits, one layer at a time is rounded to 4, and its sensitivity is the mean squared
    change of the model's outputs. Layers then give up bits in the order of least
    sensitivity per byte saved.

    Args:
        model: a built and trained Functional or Sequential model; it is not changed.
        data: typical inputs, as for `calibrate`.
        max_bytes: the most that kernels and biases may take, as
            `export(..., int4="all")` stores them.
        samples: how many inputs the sensitivity is measured on, >= 1.
        verbose: 1 shows progress: of the calibration, then of the layers.

    Returns:
        A dict from regular expressions, one for each layer with a kernel, to
        `"w8a8"` or `"w4a8"`.

    Raises:
        InvalidArgumentError: if even 4 bits everywhere are larger than `max_bytes`,
            and for what `calibrate` refuses.

    Example:

    >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(32, name="a"),
    ...                           keras.layers.Dense(4, name="b")])
    >>> x = np.random.default_rng(0).normal(size=(50, 16)).astype("float32")
    >>> mixed_precision(model, x, max_bytes=600)
    {'^a$': 'w4a8', '^b$': 'w8a8'}
    """
    problem = "`max_bytes` must be a number of bytes."
    number(max_bytes, problem, "[-inf, inf]", "a number such as 20_000")
    integer(samples, "`samples` is a number of inputs.", low=1)
    aware = calibrate(model, data, correct_bias=False, verbose=verbose)
    groups = layers_by_path(model, aware)
    sizes = {path: _bytes(layers) for path, layers in groups.items()}
    least = sum(size[4] for size in sizes.values())
    if least > max_bytes:
        raise InvalidArgumentError(
            f"The weights of model '{model.name}' cannot be that small.",
            received=f"max_bytes={max_bytes}",
            expected=f"at least {least}, which is 4 bits for every layer",
            fix="allow more, or shrink, prune or cluster the model first",
        )
    inputs = first_samples(inputs_of(data, aware), samples)
    expected = outputs_of(aware, inputs)
    bar = keras.utils.Progbar(len(groups), verbose=verbose)
    costs = {}
    for path, layers in groups.items():
        costs[path] = _sensitivity(aware, layers, inputs, expected)
        bar.add(1)
    bits = dict.fromkeys(groups, 8)
    saved = {path: size[8] - size[4] for path, size in sizes.items()}
    order = sorted(groups, key=lambda path: costs[path] / max(saved[path], 1e-9))
    total = sum(size[8] for size in sizes.values())
    for path in order:
        if total <= max_bytes:
            break
        bits[path] = 4
        total -= saved[path]
    return {f"^{re.escape(path)}$": _SCHEMES[bits[path]] for path in groups}


def layers_by_path(
    model: keras.Model, aware: keras.Model
) -> dict[str, list[QuantizedLayer]]:
    """Returns the wrapped layers of `aware` by the path of what they are part of."""
    paths = {one.name: path for path, one in walk(model) if rule_of(one) is not None}
    groups: dict[str, list[QuantizedLayer]] = {}
    for _, layer in walk(aware):
        if isinstance(layer, QuantizedLayer):
            groups.setdefault(owner_path(layer.name, paths), []).append(layer)
    return groups


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many weights layers have in kernels, and how many bytes of others."""

    kernels: int
    others: int


def weights_in(layers: list[QuantizedLayer]) -> Sizes:
    """Returns what layers hold."""
    kernels = [v for layer in layers for _, v in kernels_of(layer.layer)]
    known = {id(v) for v in kernels}
    others = [w for one in layers for w in one.layer.weights if id(w) not in known]
    return Sizes(
        sum(math.prod(v.shape) for v in kernels),
        4 * sum(math.prod(w.shape) for w in others),
    )


def _bytes(layers: list[QuantizedLayer]) -> dict[int, int]:
    size = weights_in(layers)
    four = (size.kernels + 1) // 2
    return {8: size.kernels + size.others, 4: four + size.others}


def first_samples(data: Any, samples: int) -> Any:
    """Returns the first inputs of some batches."""
    parts, count = [], 0
    for batch in data:
        parts.append(keras.tree.map_structure(ops.convert_to_numpy, batch))
        count += len(keras.tree.flatten(parts[-1])[0])
        if count >= samples:
            break
    joined = [np.concatenate(p) for p in zip(*map(keras.tree.flatten, parts))]
    return keras.tree.pack_sequence_as(parts[0], [j[:samples] for j in joined])


def outputs_of(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Returns the outputs of a model as arrays."""
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [ops.convert_to_numpy(one) for one in outputs]


def _sensitivity(
    model: keras.Model, layers: list[QuantizedLayer], inputs: Any, expected: list
) -> float:
    """Returns the relative squared change of the outputs with `layers` at 4 bits."""
    found = [pair for layer in layers for pair in kernels_of(layer.layer)]
    before = [ops.convert_to_numpy(variable) for _, variable in found]
    for (kernel, variable), values in zip(found, before):
        variable.assign(rounded(values, kernel.reduction_axes(values.ndim)))
    try:
        outputs = outputs_of(model, inputs)
    finally:
        for (_, variable), values in zip(found, before):
            variable.assign(values)
    return relative_change(outputs, expected)


def relative_change(outputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Returns the squared change of outputs in units of their own squares."""
    return sum(
        float(np.mean((a - b) ** 2) / (np.mean(b**2) + 1e-12))
        for a, b in zip(outputs, expected)
    )
