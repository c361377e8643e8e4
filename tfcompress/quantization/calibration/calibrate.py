"""calibrate: a model in integers without training, from typical inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.core.arguments import one_of
from tfcompress.core.data import Inputs, inputs_of
from tfcompress.core.errors import InvalidArgumentError, one_line, warn
from tfcompress.core.graph import Graph, built, is_graph_model
from tfcompress.core.inlining import unique_names
from tfcompress.core.samples import untouched
from tfcompress.core.select import Filters, walk
from tfcompress.core.training_rate import note_trained_rate
from tfcompress.quantization.calibration.activation_aware import scale_inputs
from tfcompress.quantization.calibration.float_run import (
    ChannelMeans,
    run_in_float,
    taps,
)
from tfcompress.quantization.calibration.folding import (
    equalize,
    fold_batch_norms,
)
from tfcompress.quantization.calibration.observers import OBSERVERS, Observer
from tfcompress.quantization.calibration.rounding import round_kernels
from tfcompress.quantization.calibration.roundings import ROUNDINGS, Rounding
from tfcompress.quantization.calibration.task import Calibration
from tfcompress.quantization.fake_quantize import FakeQuantize, rounded_layer
from tfcompress.quantization.integers.small_numbers import warn_of_small_numbers
from tfcompress.quantization.plan import plan
from tfcompress.quantization.quantize import rounded
from tfcompress.quantization.quantizers import BlockwiseQuantizer
from tfcompress.quantization.recurrent_steps import unrolled
from tfcompress.quantization.scheme import Scheme
from tfcompress.quantization.wrapper import QuantizedLayer

_BINS = 2048
_HUGE = 1e4


def calibrate(
    model: keras.Model,
    data: Any = None,
    scheme: Scheme = "w8a8",
    filters: Filters = None,
    observer: Observer | dict | str = "mse",
    rounding: Rounding | dict | str = "adaptive",
    correct_bias: bool = True,
    equalize_channels: bool = False,
    *,
    awq: bool = False,
    verbose: int = 0,
) -> keras.Model:
    """Returns a copy of `model` in integers, with ranges taken from typical inputs.

    When to use: to quantize a trained model when there is no time, or no labelled data,
    to train it; a few hundred typical inputs are enough. The result is the same kind of
    model as `quantize_aware` and `fit` give: `finalize` and `export` it, or continue
    training it.

    Source: Nagel et al., "A White Paper on Neural Network Quantization", 2021, section
    3. BatchNormalization is folded into the kernels; ranges of activations come from a
    histogram; kernels of 4 bits and fewer are rounded layer by layer so that their
    outputs change least (GPTQ, Frantar et al., 2023); then biases are corrected so that
    the mean of each channel stays the same.

    Args:
        model: a built and trained Functional or Sequential model; it is not changed.
        data: typical inputs, with or without labels, which are not used: arrays as
            for `fit`, a dict by input name, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a list of batches (docs/data.md). It is read
            several times. Weight-only schemes (`"w8"`, `"w4"`, `"w4b32"`) need none;
            with data, 4-bit kernels are rounded by reconstruction.
        scheme: bits of weights and activations, as in `quantize_aware`.
        filters: which layers to quantize, as in `quantize_aware`.
        observer: what chooses ranges: `"mse"`, `"min_max"`, `"percentile"` or an
            `Observer`.
        rounding: how the integers of kernels are chosen: `"adaptive"` (GPTQ),
            `"nearest"`, or by learning, `"adaround"` and `"brecq"`; or an `AdaRound` or
            `BRECQ` with arguments of its own. It matters for kernels of 4 bits and
            fewer; `"adaptive"` knows those with a trained step (`"w4a8"`).
        correct_bias: whether to correct biases.
        equalize_channels: whether to first even out the ranges of channels between
            consecutive layers (Nagel et al., 2019). Scales per channel already do most
            of that.
        awq: whether to first scale kernels of weight-only schemes by how large their
            inputs are (AWQ, Lin et al., 2023), which needs data.
        verbose: 1 shows progress.

    Returns:
        A new Functional model.

    Raises:
        InvalidArgumentError: for data that are empty, of the wrong shape, can be read
            only once, or hold NaN or infinity, and for what `quantize_aware` refuses.

    Example:

    >>> model = keras.Sequential([keras.Input((4,), name="x"),
    ...                           keras.layers.Dense(8, "relu", name="hidden"),
    ...                           keras.layers.Dense(2, name="head")])
    >>> x = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
    >>> integers = calibrate(model, x)
    >>> change = integers.predict(x, verbose=0) - model.predict(x, verbose=0)
    >>> bool(np.abs(change).max() < 0.1)
    True
    """
    chooser = OBSERVERS.get(observer)
    method = ROUNDINGS.get(rounding)
    known = is_graph_model(model) and model.built and data is not None
    inputs = inputs_of(data, model) if known else None
    planned = plan(model, scheme, filters)
    weights_alone = planned.scheme.activations is None
    _require_data(data, weights_alone, method)
    _check_awq(awq, data, weights_alone)
    with unique_names(model):
        aware, graph = built(_prepared(rounded(planned, filters), equalize_channels))
    note_trained_rate(aware, model)
    if data is None:
        round_kernels(aware, graph, None, {}, False, lambda: None)
        return aware
    inputs = inputs or inputs_of(data, aware)
    _check_inputs(model, inputs)
    if not taps(graph) and not weights_alone:
        return aware  # all of it stays in float, as has been said
    if awq:
        scale_inputs(aware, graph, inputs)
    wrappers = [x for x in aware.layers if isinstance(x, QuantizedLayer)]
    _check_blocks(wrappers, method)
    means = {x: ChannelMeans(x.layer) for x in wrappers if correct_bias and _biased(x)}
    task = Calibration(aware, graph, inputs, dict.fromkeys(means, np.zeros(0)))
    progress = _progress(inputs, method.units(task), verbose)
    run = functools.partial(run_in_float, aware, graph, inputs)
    passes = functools.partial(run, {}), functools.partial(run, means)
    _set_ranges(taps(graph), passes, chooser, _names_of(model), progress)
    warn_of_small_numbers(aware)
    wanted = {wrapper: found.means() for wrapper, found in means.items()}
    method.apply(dataclasses.replace(task, means=wanted, progress=progress))
    return aware


def _require_data(data: Any, weights_alone: bool, method: Rounding) -> None:
    if data is None and method.learns:
        raise InvalidArgumentError(
            "This rounding learns from typical inputs.",
            received=f"rounding={method!r} and data=None",
            expected="a few hundred typical inputs",
            fix="pass them, or leave `rounding` out",
        )
    if data is None and not weights_alone:
        raise InvalidArgumentError(
            "Ranges of activations are taken from typical inputs.",
            received="data=None",
            expected="a few hundred typical inputs",
            fix="pass them, or a weight-only scheme such as 'w4', which needs none",
        )


def _check_blocks(wrappers: list[QuantizedLayer], method: Rounding) -> None:
    blockwise = [
        x.name for x in wrappers if isinstance(x.quantizer, BlockwiseQuantizer)
    ]
    if blockwise and method.learns:
        raise InvalidArgumentError(
            "This rounding knows one step per channel, and none for blocks.",
            received=f"rounding={method!r} and blocks in {', '.join(blockwise)}",
            expected="'adaptive' or 'nearest' with blocks, or a scheme such as 'w4'",
        )


def _check_awq(awq: bool, data: Any, weights_alone: bool) -> None:
    one_of(awq, "`awq` is true or false.", (True, False))
    if awq and (data is None or not weights_alone):
        raise InvalidArgumentError(
            "AWQ scales the kernels of a weight-only scheme by its data.",
            received="data=None" if data is None else "a scheme with activations",
            expected="typical inputs and a scheme such as 'w4' or 'w4b32'",
        )


def _prepared(graph: Graph, equalize_channels: bool) -> Graph:
    """Returns a graph that rounds with what calibration has no use for taken away."""
    graph = unrolled(graph, own_ranges=True)
    nodes = [
        dataclasses.replace(node, weights=node.weights or layer.get_weights)
        if isinstance(layer := _layer_of(node.operation), keras.Layer) and layer.built
        else node
        for node in graph.nodes
    ]
    graph = fold_batch_norms(dataclasses.replace(graph, nodes=nodes))
    return equalize(graph) if equalize_channels else graph


def _biased(wrapper: QuantizedLayer) -> bool:
    layer = wrapper.layer
    # The bias of an EinsumDense may lie along other axes than the last.
    along = getattr(layer, "bias_axes", None)
    last = along is None or along == layer.equation[-1]
    return getattr(layer, "bias", None) is not None and last


def _progress(data: Inputs, layers: int, verbose: int) -> Callable[[], None]:
    """Returns what notes that a batch of a pass, or a layer, is done."""
    if not verbose:
        return lambda: None
    total = 2 * sum(1 for _ in data) + layers
    return functools.partial(keras.utils.Progbar(total, verbose=verbose).add, 1)


def _layer_of(layer: Any) -> Any:
    return layer.layer if isinstance(layer, QuantizedLayer) else layer


def _check_inputs(model: keras.Model, inputs: Inputs) -> None:
    for batch in inputs:
        for value in keras.tree.flatten(batch):
            array = np.asarray(ops.convert_to_numpy(value))
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise InvalidArgumentError(
                    "The calibration data are not finite.",
                    received=f"{int((~np.isfinite(array)).sum())} NaN or infinite "
                    f"values in a batch of shape {array.shape}",
                    expected="finite numbers",
                )
        try:
            with untouched(model):
                model(batch, training=False)
        except Exception as error:
            shapes = [tuple(np.shape(x)) for x in keras.tree.flatten(batch)]
            wanted = [tuple(x.shape) for x in model.inputs]
            raise InvalidArgumentError(
                f"Model '{model.name}' cannot run on the calibration data.",
                received=f"a batch of shapes {shapes}: {one_line(error)}",
                expected=f"inputs of shapes {wanted}, and layers that run on this "
                "machine",
            ) from error
        return


def _names_of(model: keras.Model) -> tuple[str, ...]:
    """Returns the names of layers, operations and inputs that the user knows."""
    known = [layer for _, layer in walk(model)]
    models = [model, *filter(is_graph_model, known)]
    named = [*known, *(i for m in models for i in getattr(m, "inputs", None) or ())]
    named += [op for one in models for op in getattr(one, "operations", ())]
    return tuple(one.name for one in named)


def _set_ranges(
    layers: list[FakeQuantize],
    passes: tuple[Callable[[Callable], Iterable], ...],
    observer: Observer,
    known: tuple[str, ...],
    progress: Callable[[], None],
) -> None:
    """Gives every FakeQuantize the range that `observer` chooses.

    Args:
        layers: those to give one.
        passes: two runs over the data, which call a function with each of the layers
            and what it would round.
        observer: what chooses.
        known: names that the user knows.
        progress: is called after each batch.
    """
    ends: dict[int, np.ndarray] = {}

    def widen(layer: FakeQuantize, value: np.ndarray) -> None:
        _check_finite(layer, value)
        own = np.array(layer.seen_range(value), "float64")
        seen = ends.get(id(layer), own)
        ends[id(layer)] = np.array([min(seen[0], own[0]), max(seen[1], own[1])])

    def count(layer: FakeQuantize, value: np.ndarray) -> None:
        _check_finite(layer, value)
        low, high = ends[id(layer)]
        if high > low:
            counts[id(layer)] += np.histogram(value, _BINS, (low, high))[0]

    first, second = passes
    for _ in first(widen):
        progress()
    edges = {
        key: np.linspace(low, high, _BINS + 1) for key, (low, high) in ends.items()
    }
    counts = {key: np.zeros(_BINS) for key in ends}
    for _ in second(count):
        progress()
    constant, useless, cut = [], [], []
    for layer in {id(one): one for one in layers}.values():
        low, high = ends[id(layer)]
        name = rounded_layer(layer.name)
        if layer.fixed_range is not None:
            least, most = layer.learned_range()
            if low < least - layer.step() or high > most + layer.step():
                cut.append(
                    f"{name} ({low:.3g} to {high:.3g}, kernels: {least:.3g} to "
                    f"{most:.3g})"
                )
            continue
        if layer.masked is not None:
            pass  # its low end is what hides masked scores
        elif high > low:
            low, high = observer.range_of(
                counts[id(layer)], edges[id(layer)], layer.num_bits
            )
            if _is_one_step(counts[id(layer)], edges[id(layer)], (low, high)):
                useless.append(f"{name} ({low:.3g} to {high:.3g})")
        elif low == 0 and name.startswith(known):
            # Others are zero by themselves: what a first step makes of no state.
            constant.append(name)
        layer.ranges.assign(np.tile([[low, high]], (layer.sites, 1)))
        layer.batches.assign(np.ones(layer.sites))
    if cut:
        warn(
            "Integer kernels prescribe the range of these, and cut off what lies "
            f"outside: {', '.join(cut)}. If that matters, leave them in float by "
            "`filters`."
        )
    if constant:
        warn(
            f"Always zero on the calibration data: {', '.join(constant)}. Their range "
            "is a guess; are the data typical?"
        )
    if useless:
        warn(
            "A few huge numbers leave all others one value of their range: "
            f"{', '.join(useless)}. If these are masks of attention, use "
            "ops.where(mask, scores, -1e9) right before the softmax; else clip them."
        )


def _is_one_step(
    counts: np.ndarray, edges: np.ndarray, ends: tuple[float, float]
) -> bool:
    """Returns whether huge numbers leave most of the others a single value."""
    low, high = ends
    if max(-low, high) < _HUGE:
        return False
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    near = (edges[:-1] > -step) & (edges[1:] < step)
    far = counts[(edges[1:] < -step) | (edges[:-1] > step)].sum()
    return bool(far and counts[near].sum() > 0.5 * counts.sum())


def _check_finite(layer: FakeQuantize, value: np.ndarray) -> None:
    hides = layer.masked is not None  # scores of minus infinity are masked
    if not np.isfinite(value[value > -np.inf] if hides else value).all():
        raise InvalidArgumentError(
            "A layer computes NaN or infinity on the calibration data.",
            received=f"the output of '{rounded_layer(layer.name)}'",
            fix="load a checkpoint from before the training diverged",
        )
