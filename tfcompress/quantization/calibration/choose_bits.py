"""choose_bits: the bits of each layer, by a solver, under limits."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import integer, number, one_of
from tfcompress.core.data import inputs_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Graph, trace
from tfcompress.layers import Kernel, kernels_of
from tfcompress.layers.counting import macs_of_nodes
from tfcompress.quantization.calibration.calibrate import calibrate
from tfcompress.quantization.calibration.fisher import fisher
from tfcompress.quantization.calibration.mixed_precision import (
    first_samples,
    layers_by_path,
    outputs_of,
    relative_change,
    weights_in,
)
from tfcompress.quantization.calibration.program import (
    Limit,
    Table,
    fits,
    greedy,
    solved,
)
from tfcompress.quantization.calibration.rounding import rounded
from tfcompress.quantization.quantizers import TernaryQuantizer, UniformQuantizer
from tfcompress.quantization.wrapper import QuantizedLayer

_SCHEMES = {8: "w8a8", 4: "w4a8", 2: "w2a8"}
_ACTIVATIONS = 8
_SENSITIVITIES = ("fisher", "outputs")
# Samples of a gradient: few, so that there are many.
_BATCH = 8

Groups = dict[str, list[QuantizedLayer]]


def choose_bits(
    model: keras.Model,
    data: Any,
    max_bytes: float | None = None,
    max_bops: float | None = None,
    max_latency: float | None = None,
    widths: Collection[int] = (2, 4, 8),
    *,
    latency: Mapping[str, Mapping[int, float]] | None = None,
    sensitivity: str = "fisher",
    samples: int = 256,
    seed: int = 0,
    verbose: int = 0,
) -> dict[str, str]:
    """Returns a scheme that gives each layer the bits of least harm within limits.

    When to use: where one width for all layers is too large or too inaccurate. Pass the
    result to `calibrate` or `quantize_aware` as `scheme`. `mixed_precision` needs no
    solver, and chooses between 8 and 4 bits one layer after the other.

    Source: Yao et al., "HAWQ-V3", 2021: an integer program chooses one width `b` for
    each layer `l`, so that the sum of `harm[l, b]` is least and the sum of
    `cost[l, b]` is within each limit. With `"fisher"`,
    `harm = 0.5 * sum(F * (q(w, b) - w) ** 2)`, where `F` is the diagonal of the Fisher
    matrix for labels that the model's own predictions draw; with `"outputs"` it is the
    mean squared change of the outputs when this layer alone has `b` bits. Both
    programs' answers and the one of `mixed_precision`'s rule are then tried on the
    samples, and the one that changes the outputs least is returned.

    Args:
        model: a built and trained Functional or Sequential model; it is not changed.
        data: typical inputs, as for `calibrate`; labels are not used.
        max_bytes: the most that kernels and biases may take. Two bits count as two,
            which is what `pack` stores; a .tflite file stores them as four.
        max_bops: the most that products may take of one sample: multiply-accumulates
            times the bits of weight and activation.
        max_latency: the most that the layers' times in `latency` may sum up to.
        widths: the bits to choose from: some of 2, 4 and 8.
        latency: the time of each layer at each of `widths`, by its path.
        sensitivity: `"fisher"` or `"outputs"`: whose program's answer is taken where
            both change the outputs as much.
        samples: how many inputs the sensitivity is measured on, >= 8.
        seed: of the labels that are drawn.
        verbose: 1 shows progress: of the calibration, then of the layers.

    Returns:
        A dict from regular expressions, one for each layer with a kernel, to
        `"w8a8"`, `"w4a8"` or `"w2a8"`.

    Raises:
        InvalidArgumentError: without any limit, if no choice is within the limits,
            without SciPy (`pip install 'tfcompress[solver]'`), and for what
            `calibrate` refuses.

    Example:

    >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(32, name="a"),
    ...                           keras.layers.Dense(4, name="b")])
    >>> x = np.random.default_rng(0).normal(size=(50, 16)).astype("float32")
    >>> choose_bits(model, x, max_bytes=600, widths=(4, 8))
    {'^a$': 'w4a8', '^b$': 'w8a8'}
    """
    choices = _choices(widths)
    one_of(sensitivity, "Unknown `sensitivity`.", _SENSITIVITIES)
    integer(samples, "`samples` is a number of inputs.", low=_BATCH)
    integer(seed, "Bad `seed`.", 0, 2**31 - 1)
    most = {"max_bytes": max_bytes, "max_bops": max_bops, "max_latency": max_latency}
    _check_limits(most, latency)
    aware = calibrate(model, data, correct_bias=False, verbose=verbose)
    graph, groups = trace(aware), layers_by_path(model, aware)
    costs = {
        "max_bytes": lambda: _bytes(groups, choices),
        "max_bops": lambda: _bops(graph, groups, choices),
        "max_latency": lambda: _times(groups, choices, latency or {}),
    }
    limits = [Limit(k, costs[k](), m) for k, m in most.items() if m is not None]
    for limit in limits:
        _refuse_too_little(model, limit)
    trial = _Trial(aware, groups, first_samples(inputs_of(data, aware), samples))
    bar = keras.utils.Progbar(len(groups), verbose=verbose)
    alone: dict[str, dict[int, float]] = {}
    for path in groups:
        alone[path] = {bits: trial.change({path: bits}) for bits in choices}
        bar.add(1)
    weighted = _weighted(model, graph, groups, trial, choices, seed)
    harms = {"fisher": weighted, "outputs": alone}
    first = harms.pop(sensitivity)
    answers = [solved(harm, limits) for harm in (first, *harms.values())]
    answers.append(greedy(alone, limits))
    found = [bits for bits in answers if bits is not None and fits(limits, bits)]
    if not found:
        raise InvalidArgumentError(
            f"No choice of bits for model '{model.name}' is within all limits at once.",
            received=", ".join(f"{limit.name}={limit.most:g}" for limit in limits),
            expected="limits that leave a choice together",
            fix="allow more of one of them",
        )
    best = min(found, key=trial.change)
    return {f"^{re.escape(path)}$": _SCHEMES[best[path]] for path in groups}


class _Trial:
    """Tries layers at some bits, all others at 8, on samples.

    Args:
        model: calibrated at 8 bits.
        groups: its layers with kernels by path.
        inputs: the samples.
    """

    def __init__(self, model: keras.Model, groups: Groups, inputs: Any):
        self.inputs, self._model, self._groups = inputs, model, groups
        self._expected = outputs_of(model, inputs)

    def change(self, bits: Mapping[str, int]) -> float:
        """Returns the relative squared change of the outputs with layers at `bits`."""
        with self.at(bits) as outputs:
            return relative_change(outputs, self._expected)

    @contextlib.contextmanager
    def at(self, bits: Mapping[str, int]) -> Iterator[list[np.ndarray]]:
        """Inside, layers are at `bits`; yields what the model makes of the samples."""
        layers = [(one, b) for path, b in bits.items() for one in self._groups[path]]
        found = [
            (variable, ops.convert_to_numpy(variable), _at(b, kernel, variable))
            for layer, b in layers
            for kernel, variable in kernels_of(layer.layer)
        ]
        try:
            for variable, _, values in found:
                variable.assign(values)
            yield outputs_of(self._model, self.inputs)
        finally:
            for variable, values, _ in found:
                variable.assign(values)


def _at(bits: int, kernel: Kernel, variable: Any) -> np.ndarray:
    """Returns a kernel rounded to the nearest values of so many bits."""
    values = ops.convert_to_numpy(variable)
    axes = kernel.reduction_axes(values.ndim)
    if bits == 4:
        return rounded(values, axes)
    quantizer = TernaryQuantizer() if bits == 2 else UniformQuantizer()
    return ops.convert_to_numpy(quantizer(ops.convert_to_tensor(values), axes))


def _weighted(
    model: keras.Model,
    graph: Graph,
    groups: Groups,
    trial: _Trial,
    choices: tuple[int, ...],
    seed: int,
) -> dict[str, dict[int, float]]:
    """Returns half of the rounding errors' squares, weighted by the Fisher matrix."""
    classes = "crossentropy" in _loss_of(model)
    arrays = [np.asarray(one) for one in keras.tree.flatten(trial.inputs)]
    batch = graph.input_tensors[0].shape[0] or _BATCH
    importance = fisher(graph, arrays, batch, seed, classes)
    return {
        path: {
            bits: sum(
                0.5
                * float(
                    np.sum(
                        importance[id(variable)]
                        * (_at(bits, kernel, variable) - ops.convert_to_numpy(variable))
                        ** 2
                    )
                )
                for layer in layers
                for kernel, variable in kernels_of(layer.layer)
            )
            for bits in choices
        }
        for path, layers in groups.items()
    }


def _loss_of(model: keras.Model) -> str:
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else type(loss).__name__
    return name.replace("_", "").lower()


def _choices(widths: Any) -> tuple[int, ...]:
    known = isinstance(widths, Collection) and not isinstance(widths, str | Mapping)
    if not known or not widths or not set(map(str, widths)) <= set(map(str, _SCHEMES)):
        raise InvalidArgumentError(
            "`widths` are the bits to choose from.",
            received=repr(widths),
            expected="some of 2, 4 and 8",
        )
    return tuple(sorted(set(map(int, widths)), reverse=True))


def _check_limits(most: Mapping[str, Any], latency: Any) -> None:
    for name, value in most.items():
        if value is not None:
            number(value, f"`{name}` must be a number.", "(0, inf)")
    if all(value is None for value in most.values()):
        raise InvalidArgumentError(
            "Bits are chosen under a limit, and there is none.",
            expected=f"one of {', '.join(most)}",
        )
    if (most["max_latency"] is None) != (latency is None):
        raise InvalidArgumentError(
            "`max_latency` and `latency` go together.",
            received=f"max_latency={most['max_latency']!r}, latency={latency!r}",
            expected="the time of each layer at each width by its path, and the most "
            "that they may sum up to",
        )


def _refuse_too_little(model: keras.Model, limit: Limit) -> None:
    least = sum(min(row.values()) for row in limit.costs.values())
    if least > limit.most:
        raise InvalidArgumentError(
            f"Layers of model '{model.name}' cannot cost that little.",
            received=f"{limit.name}={limit.most:g}",
            expected=f"at least {least:g}, which is the fewest bits for every layer",
            fix="allow more, or shrink, prune or cluster the model first",
        )


def _bytes(groups: Groups, choices: tuple[int, ...]) -> Table:
    table = {}
    for path, layers in groups.items():
        size = weights_in(layers)
        table[path] = {b: -(-size.kernels * b // 8) + size.others for b in choices}
    return table


def _bops(graph: Graph, groups: Groups, choices: tuple[int, ...]) -> Table:
    counts: dict[int, int] = {}
    for node, count in zip(graph.nodes, macs_of_nodes(graph)):
        counts[id(node.operation)] = counts.get(id(node.operation), 0) + count
    return {
        path: {
            b: float(b * _ACTIVATIONS * sum(counts.get(id(one), 0) for one in layers))
            for b in choices
        }
        for path, layers in groups.items()
    }


def _times(
    groups: Groups, choices: tuple[int, ...], latency: Mapping[str, Mapping[int, float]]
) -> Table:
    try:
        return {
            path: {bits: float(latency[path][bits]) for bits in choices}
            for path in groups
        }
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            "`latency` does not have the time of every layer at every width.",
            received=f"no number for {error}",
            expected=f"{', '.join(groups)}, each with a dict of {list(choices)}",
        ) from error
