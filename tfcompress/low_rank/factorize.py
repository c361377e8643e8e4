"""factorize: an ordinary model whose layers are products of smaller ones."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import keras
import numpy as np

from tfcompress.core.arguments import integer, number, one_of
from tfcompress.core.data import inputs_of
from tfcompress.core.errors import InvalidArgumentError, UnsupportedLayerError
from tfcompress.core.graph import Graph, Node, Tensor, build, trace
from tfcompress.core.kernel_values import warn_of_lost_values
from tfcompress.core.select import (
    Filters,
    exclude,
    refuse_quantized,
    select,
    walk,
    warn_of_own_training,
)
from tfcompress.core.tied import tied_operations
from tfcompress.layers import cell, kernels_of, macs_of_nodes
from tfcompress.low_rank.decomposition import Form, Link, Option
from tfcompress.low_rank.layer_moments import Moments, has_window, layer_moments
from tfcompress.low_rank.matrix_forms import convolution_form
from tfcompress.low_rank.window_forms import spatial_form, tucker_form

_CONV = {"tucker": tucker_form, "spatial": spatial_form}
_PASSES = 100


def factorize(
    model: keras.Model,
    rank: int | None = None,
    energy: float | None = None,
    macs: float | None = None,
    size: float | None = None,
    conv: str = "tucker",
    filters: Filters = None,
    data: Any = None,
    *,
    verbose: int = 0,
) -> keras.Model:
    """Returns a model whose layers are products of smaller layers.

    When to use: to make large Dense layers, embeddings and convolutions cheaper
    everywhere, with no special kernels. Fine-tune the result with `fit`. A layer
    that would become larger stays as it is.

    Source: Dense, EinsumDense and Embedding layers are factorized by truncated SVD,
    `W = A B` with `rank` columns in `A`. A Conv2D is factorized by Tucker-2 (Kim et
    al., 2016), into a 1x1 convolution to few channels, the window on these, and a 1x1
    convolution back; or by spatial SVD (Jaderberg et al., 2014), into a column and a
    row of the window. With `data`, the variance of the layer's outputs is preserved
    (Zhang et al., 2016), and what the truncation loses on average is added to the bias.

    Args:
        model: a built Functional or Sequential model; it is not changed. Nested
            models are inlined.
        rank: the rank of every layer; for a Tucker-2 convolution both ranks, where it
            has that many channels.
        energy: the share of each kernel's squared norm to keep, in (0, 1]; with
            `data`, of the variance of its outputs.
        macs: share of the model's multiply-accumulates to keep, in (0, 1]; ranks are
            chosen across layers so that the product of the energies that they keep is
            largest, until no further rank fits.
        size: share of the model's weights to keep, in the same way. Give one of the
            four.
        conv: `"tucker"` or `"spatial"`.
        filters: which layers: a regular expression on the layer's path, a layer
            class, a predicate, or a list of these. `None` means all.
        data: typical inputs, a few hundred: an array of shape `(n, ...)` (or a dict for
            several inputs), a `tf.data.Dataset`, or another form listed in
            docs/data.md; labels are not used. Embeddings, and convolutions with
            channels first, are factorized by their weights alone.
        verbose: 1 shows progress, batch by batch.

    Returns:
        A new, uncompiled Functional model. The last layer of each product has the
        name of the layer it stands for.

    Raises:
        InvalidArgumentError: for a rank of 0 or above full rank, a target out of
            range or out of reach, weights or data that are NaN, or empty data.
        UnsupportedLayerError: if `filters` ask for a layer that would grow.

    Example:

    >>> model = keras.Sequential([keras.Input((64,)),
    ...                           keras.layers.Dense(64, name="head")])
    >>> small = factorize(model, rank=8)
    >>> [(layer.name, layer.units) for layer in small.layers[1:]]
    [('head_reduced', 8), ('head', 64)]
    """
    _check_arguments(rank, energy, macs, size, conv)
    graph = trace(model, "factorize the model")
    refuse_quantized(model, "factorize")
    warn_of_own_training(model, "factorized")
    chosen = select(model, filters, lambda layer: cell(layer, "factors") is not None)
    tied = tied_operations(graph)
    names = {id(layer): path for path, layer in chosen if id(layer) not in tied}
    left_out = [path for path, layer in chosen if id(layer) in tied]
    if left_out:
        fix = "nothing, if they may stay; else give each layer its own"
        reason, asked_for = "others use the same weights", filters is not None
        exclude(left_out, "factorized", reason, fix, asked_for)
    calls: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if id(node.operation) in names:
            calls.setdefault(id(node.operation), []).append(node)
    _check_weights(names, calls)
    moments = {}
    if data is not None:
        inputs = inputs_of(data, model)
        called = [nodes[0].operation for nodes in calls.values()]
        moments = layer_moments(model, called, inputs, verbose)
    forms = {
        key: form
        for key, nodes in calls.items()
        if (form := _form_of(nodes, conv, moments.get(key))) is not None
    }
    if not forms and 1 not in (energy, macs, size):
        _refuse(model, filters)
    if macs is None and size is None:
        asked_for = filters is not None
        wanted = _for_each(forms, names, (rank, energy), asked_for)
        ranks = _without_growth(forms, wanted, names, asked_for)
    else:
        name, share = ("macs", macs) if macs is not None else ("size", size)
        ranks = _for_target(graph, forms, name, float(share or 0), model.count_params())
    warn_of_lost_values(
        (
            (names[key], keras.ops.convert_to_numpy(variable), kernel.output_axes)
            for key in ranks
            for kernel, variable in kernels_of(calls[key][0].operation)
        ),
        "factorize",
        "Factorize first, then prune and cluster",
    )
    made = {key: forms[key].links(found) for key, found in ranks.items()}
    nodes = [part for node in graph.nodes for part in _parts(node, made)]
    return build(dataclasses.replace(graph, nodes=nodes))


def _refuse(model: keras.Model, filters: Filters) -> None:
    listed = [
        f"{path} ({type(layer).__name__})"
        for path, layer in walk(model)
        if layer.weights
    ]
    raise UnsupportedLayerError(
        f"No layer of model '{model.name}' can be a product of smaller ones.",
        received=", ".join(listed) or "no layer with weights",
        expected="Dense, EinsumDense, Embedding or convolution layers without groups"
        + (" among those of `filters`" if filters is not None else ""),
        fix="use shrink() or pruning for these",
    )


def _form_of(nodes: list[Node], conv: str, moments: Moments | None) -> Form | None:
    """Returns how the layer of these calls can be written, `None` if it cannot."""
    layer = nodes[0].operation
    form = cell(layer, "factors")
    if form is convolution_form and has_window(layer) and layer.groups == 1:
        form = _CONV[conv]
    return form(layer, nodes, moments)


def _for_each(
    forms: dict[int, Form],
    names: dict[int, str],
    target: tuple[int | None, float | None],
    asked_for: bool,
) -> dict[int, Option]:
    """Returns what each layer becomes with a rank, or with a share of its energy."""
    rank, energy = target
    if rank is None:
        kept = float(energy or 1.0)
        return {
            key: form.option(form.energy_ranks(kept)) for key, form in forms.items()
        }
    low = {key: form.full for key, form in forms.items() if rank > form.full}
    if low and (asked_for or len(low) == len(forms)):
        key = (min if asked_for else max)(low, key=lambda key: low[key])
        raise InvalidArgumentError(
            f"Layer '{names[key]}' has no such rank.",
            received=f"rank={rank}",
            expected=f"a rank from 1 to {low[key]}",
            fix="take a lower rank, or name the layers with `filters`",
        )
    return {
        key: form.option(tuple(min(rank, most) for most in form.options[-1].ranks))
        for key, form in forms.items()
        if key not in low
    }


def _without_growth(
    forms: dict[int, Form],
    wanted: dict[int, Option],
    names: dict[int, str],
    asked_for: bool,
) -> dict[int, tuple[int, ...]]:
    grown = [
        f"{names[key]} (rank {'/'.join(map(str, option.ranks))}: "
        f"{option.size} weights instead of {forms[key].size})"
        for key, option in wanted.items()
        if option.size >= forms[key].size
    ]
    if grown and (asked_for or len(grown) == len(wanted)):
        raise UnsupportedLayerError(
            "Factorizing would make layers larger.",
            received=", ".join(grown),
            expected="ranks at which the product is smaller than the layer",
            fix="take a lower rank or energy, or leave the layers out with `filters`",
        )
    return {
        key: option.ranks
        for key, option in wanted.items()
        if option.size < forms[key].size
    }


def _work(graph: Graph, forms: dict[int, Form]) -> tuple[int, dict[int, float]]:
    """Returns the MACs of a model, and how many a form's MAC stands for.

    More than one where a layer is called with other axes in the batch.
    """
    counts = macs_of_nodes(graph)
    called = collections.Counter[int]()
    for node, count in zip(graph.nodes, counts):
        called[id(node.operation)] += count
    scales = {
        key: called[key] / form.macs if form.macs else 1.0
        for key, form in forms.items()
    }
    return sum(counts), scales


def _for_target(
    graph: Graph, forms: dict[int, Form], name: str, share: float, size: int
) -> dict[int, tuple[int, ...]]:
    """Returns the ranks that keep most and meet the target.

    Each layer takes the option with least `loss + price * cost`; the price at which the
    target is met is found by bisection. Shares of energy that layers keep multiply as
    signals pass through them, so their logarithms add, and no layer is cut to nothing.

    Args:
        graph: the model.
        forms: the layers that can be factorized.
        name: of the target, `"macs"` or `"size"`.
        share: the target.
        size: how many weights the model has.
    """
    total, scales = (size, dict.fromkeys(forms, 1.0))
    if name == "macs":
        total, scales = _work(graph, forms)
    if share == 1 or not total:
        return {}

    def cost(key: int, thing: Form | Option) -> float:
        return getattr(thing, name) * scales[key]

    fixed = total - sum(cost(key, form) for key, form in forms.items())
    choices = {
        key: [
            *(option for option in form.options if _is_smaller(option, form)),
            Option((), form.size, form.macs, 1.0),
        ]
        for key, form in forms.items()
    }

    def best(price: float) -> dict[int, Option]:
        return {
            key: min(options, key=lambda o: o.loss + price * cost(key, o) / total)
            for key, options in choices.items()
        }

    def reached(found: dict[int, Option]) -> float:
        return (fixed + sum(cost(key, o) for key, o in found.items())) / total

    high, low = 1e9, 1e-12
    least = reached(best(high))
    if least > share:
        raise InvalidArgumentError(
            f"{name}={share} cannot be met.",
            received=f"a model of {total} {'MACs' if name == 'macs' else 'weights'}",
            expected=f"{name} >= {least:.3g}, what the lowest ranks leave",
            fix="take a larger share, or let `filters` take more layers",
        )
    for _ in range(_PASSES):
        middle = float(np.sqrt(low * high))
        if reached(best(middle)) > share:
            low = middle
        else:
            high = middle
    found = best(high)
    # What a price cannot say, because a jump is too large, is spent step by step.
    left = (share - reached(found)) * total
    while True:
        steps = [
            (
                (found[key].loss - o.loss) / (cost(key, o) - cost(key, found[key])),
                key,
                o,
            )
            for key, options in choices.items()
            for o in (*options, *_next_to(found[key], forms[key]))
            if 0 < cost(key, o) - cost(key, found[key]) <= left
            and o.loss < found[key].loss
        ]
        if not steps:
            break
        _, key, option = max(steps, key=lambda step: step[0])
        left -= cost(key, option) - cost(key, found[key])
        found[key] = option
    return {key: option.ranks for key, option in found.items() if option.ranks}


def _is_smaller(option: Option, form: Form) -> bool:
    return option.size < form.size and option.macs <= max(form.macs, option.size)


def _next_to(option: Option, form: Form) -> list[Option]:
    """Returns the options with one rank more; a form does not list all pairs of two."""
    most = form.options[-1].ranks
    raised = [
        (*option.ranks[:at], rank + 1, *option.ranks[at + 1 :])
        for at, rank in enumerate(option.ranks)
        if rank < most[at]
    ]
    options = [form.option(ranks) for ranks in raised]
    return [option for option in options if _is_smaller(option, form)]


def _parts(node: Node, made: dict[int, list[Link]]) -> list[Node]:
    """Returns the calls that stand for a call of a layer."""
    links = made.get(id(node.operation))
    if links is None:
        return [node]
    parts: list[Node] = []
    args = node.args
    for position, (layer, weights) in enumerate(links):
        last = position == len(links) - 1
        outputs = node.outputs
        if not last:
            outputs = Tensor((), node.output.dtype)
        parts.append(
            Node(
                layer,
                args,
                node.kwargs if position == 0 else {},
                outputs,
                functools.partial(list, weights),
            )
        )
        layer.trainable = node.operation.trainable
        args = (outputs,)
    return parts


def _check_weights(names: dict[int, str], calls: dict[int, list[Node]]) -> None:
    for key, nodes in calls.items():
        for weight in nodes[0].operation.weights:
            values = keras.ops.convert_to_numpy(weight)
            if not np.isfinite(values).all():
                raise InvalidArgumentError(
                    f"Cannot factorize layer '{names[key]}': '{weight.name}' is not "
                    "finite.",
                    received=f"{np.count_nonzero(~np.isfinite(values))} of "
                    f"{values.size} values are NaN or infinite",
                    fix="go back to a checkpoint from before the training diverged",
                )


def _check_arguments(rank: Any, energy: Any, macs: Any, size: Any, conv: str) -> None:
    targets = {"rank": rank, "energy": energy, "macs": macs, "size": size}
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        raise InvalidArgumentError(
            "factorize needs one target.",
            received=", ".join(f"{k}={v!r}" for k, v in given.items()) or "none",
            expected="one of rank, energy, macs and size",
        )
    if rank is not None:
        integer(rank, "`rank` must be a number of columns.", low=1)
    for name in ("energy", "macs", "size"):
        number(given.get(name, 0.5), f"`{name}` must be a share to keep.", "(0, 1]")
    one_of(conv, "Unknown `conv`.", _CONV, f"one of {', '.join(map(repr, _CONV))}")
