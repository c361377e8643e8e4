"""Channels that hold one number whatever the input: which of them can go exactly.

A channel that pruning has set to zero still has a bias and a BatchNormalization
offset behind it, so what flows is not always zero but always the same. Here that
number is followed through the graph. A channel may go if each layer that sums over
it either gets zero from it, ignores it, or can take the constant into its bias.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.channels import kernel_flows, sequence_flows, shape_flows
from tfcompress.channels.call import Call, Flow, Site, flow_of
from tfcompress.channels.channel_ids import ChannelIds
from tfcompress.channels.dependencies import Dependencies
from tfcompress.channels.surgery import Offsets
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Node, Tensor
from tfcompress.layers import cell, operation_name

Values = dict[int, np.ndarray]
"""For the channel axes of a tensor: the constant of each channel, NaN if it varies."""


class ExactRemoval:
    """Which channels can go without changing what the model computes.

    Args:
        dependencies: the analysed model.

    Attributes:
        removable: the classes that can go, all together if need be.

    Example:

    >>> from tfcompress.channels.dependencies import analyse
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a"),
    ...                           keras.layers.Dense(1, name="b")])
    >>> model.layers[0].set_weights([np.array([[1, 0], [1, 0], [1, 0.0]]), np.ones(2)])
    >>> dependencies = analyse(model)
    >>> exact = ExactRemoval(dependencies)
    >>> [exact.removable == {dependencies.groups[0].members[1]}]
    [True]
    """

    def __init__(self, dependencies: Dependencies):
        self._dependencies = dependencies
        self._values: dict[Tensor, Values] = {}
        for node in dependencies.graph.nodes:
            _follow(node, dependencies, self._values)
        self._inputs = [s for s in dependencies.sites if s.role == "input"]
        self.removable = self._find()

    def _find(self) -> set[int]:
        deps = self._dependencies
        calls = collections.Counter(id(site.variable) for site in self._inputs)
        blocked = set(deps.mixed)
        for site in self._inputs:
            constant = self._constants(site)
            harmless = (constant == 0) | _ignored(site)
            # The constants of two calls of one layer do not fit into one bias.
            if can_absorb(site.operation) and calls[id(site.variable)] == 1:
                harmless |= ~np.isnan(constant)
            blocked.update(deps.roots[site.ids[~harmless]].tolist())
        free = [group for group in deps.groups if not group.fixed]
        return {m for group in free for m in group.members if m not in blocked}

    def offsets(self, removed: set[int]) -> Offsets:
        """Returns what the removed constants added to the layers that read them."""
        offsets: Offsets = {}
        for site in self._inputs:
            if can_absorb(site.operation):
                gone = np.isin(self._dependencies.roots[site.ids], sorted(removed))
                amount = np.where(gone, np.nan_to_num(self._constants(site)), 0.0)
                kernel = _values(site.variable)
                offset = amount @ kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
                if offset.any():
                    offsets[id(site.operation)] = offset
        return offsets

    def _constants(self, site: Site) -> np.ndarray:
        """Returns the constant that each position of an input site reads."""
        table: dict[int, float] = {}
        if site.tensor is not None:
            axes = self._dependencies.channels.get(site.tensor, {})
            for axis, constant in self._values.get(site.tensor, {}).items():
                for one, value in zip(axes[axis].tolist(), constant.tolist()):
                    if table.setdefault(one, value) != value:
                        table[one] = np.nan
        return np.array([table.get(one, np.nan) for one in site.ids.tolist()])


def can_absorb(layer: Any) -> bool:
    """Returns whether a constant input channel is a constant addition to the output.

    At the border of a padded image it is not.
    """
    if isinstance(layer, keras.layers.Dense):
        return True
    if flow_of(layer) is not kernel_flows.convolution or layer.groups != 1:
        return False
    return layer.padding == "valid" or set(layer.kernel_size) == {1}


def _ignored(site: Site) -> np.ndarray:
    """Returns which inputs of a layer have only zero weights."""
    kernel = _values(site.variable)
    others = tuple(a for a in range(kernel.ndim) if a != site.axis)
    return ~np.any(kernel != 0, axis=others)


def _follow(
    node: Node, dependencies: Dependencies, values: dict[Tensor, Values]
) -> None:
    rule = constants_of(node.operation)
    given = [values.get(tensor, {}) for tensor in node.inputs]
    outputs = [
        leaf for leaf in keras.tree.flatten(node.outputs) if isinstance(leaf, Tensor)
    ]
    if rule == "each":
        made = [_elementwise(node, given, dependencies)]
    elif rule == "moved":
        made = _moved(node, given, dependencies)
    elif callable(rule) and _has_one_input(node):
        axes = dependencies.channels[outputs[0]]
        constant = rule(node.operation, given[0])
        fitting = [a for a, i in axes.items() if len(i) == len(constant)]
        made = [{max(fitting): constant}] if fitting else []
    else:
        made = []
    for tensor, found in zip(outputs, made):
        axes = dependencies.channels[tensor]
        values[tensor] = {a: v for a, v in found.items() if a in axes}


def _has_one_input(node: Node) -> bool:
    # A mask says which steps count; initial states would be inputs too.
    return sum(tensor.dtype != "bool" for tensor in node.inputs) == 1


def _elementwise(node: Node, given: list[Values], dependencies: Dependencies) -> Values:
    """Runs the operation itself on one number per channel."""
    rank = len(node.output.shape)
    axes = dependencies.channels[node.output]
    if not axes:
        return {}
    axis = max(axes)
    count = len(axes[axis])
    known = np.ones(count, bool)
    zero = np.zeros(count, bool)
    stand_ins: dict[int, np.ndarray] = {}
    for tensor, found in zip(node.inputs, given):
        own = axis - (rank - len(tensor.shape))
        constant = found.get(own, np.full(count, np.nan))
        known &= ~np.isnan(constant)
        zero |= constant == 0
        shape = [1] * len(tensor.shape)
        if own in dependencies.channels[tensor]:
            shape[own] = count
        filled = np.nan_to_num(constant)[: max(shape)]
        stand_ins[id(tensor)] = filled.reshape(shape)
    if operation_name(node.operation) == "Multiply":
        known |= zero
    gamma = getattr(node.operation, "gamma", None)
    if gamma is not None and tuple(gamma.shape) == (count,):
        # A scale of zero leaves the offset alone, whatever came in.
        known |= _values(gamma) == 0
    if not known.any():
        return {}
    result = _run(node, stand_ins)
    if result is None or result.size != count:
        # It wants to see more than one number per channel.
        result = np.zeros(count)
        known &= zero & (len(node.inputs) == 1)
    return {axis: np.where(known, result.ravel(), np.nan)}


def _run(node: Node, stand_ins: dict[int, np.ndarray]) -> np.ndarray | None:
    def swap(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return ops.convert_to_tensor(stand_ins[id(leaf)], leaf.dtype)
        return leaf

    args, kwargs = keras.tree.map_structure(swap, (node.args, node.kwargs))
    try:
        return np.asarray(ops.convert_to_numpy(node.operation(*args, **kwargs)), float)
    except (ValueError, TypeError):
        return None


def _moved(node: Node, given: list[Values], dependencies: Dependencies) -> list[Values]:
    """Lets the channel rule itself say where each input channel ends up."""
    scratch = ChannelIds()
    inputs, numbers = [], []
    for tensor, found in zip(node.inputs, given):
        placed = {}
        for axis, members in dependencies.channels[tensor].items():
            placed[axis] = scratch.fresh(len(members))
            numbers.append(found.get(axis, np.full(len(members), np.nan)))
        inputs.append(placed)
    flat = np.concatenate([*numbers, np.zeros(0)])
    if operation_name(node.operation).startswith(("ZeroPadding", "Resizing", "Sum")):
        flat = np.where(flat == 0, flat, np.nan)
    call = Call(node, scratch, inputs)
    flow_of(node.operation)(call)
    roots = scratch.roots()
    lowest: dict[int, float] = {}
    for one, root in enumerate(roots.tolist()):
        value = flat[one] if one < len(flat) else np.nan
        if lowest.setdefault(root, value) != value:
            lowest[root] = np.nan
    return [
        {a: np.array([lowest[r] for r in roots[i].tolist()]) for a, i in axes.items()}
        for axes in call.outputs
    ]


def _values(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(variable, "float32"))


def _bias(layer: Any, count: int) -> np.ndarray:
    bias = getattr(layer, "bias", None)
    return np.zeros(count) if bias is None else _values(bias)


def _activated(layer: Any, sums: np.ndarray, known: np.ndarray) -> np.ndarray:
    activation = getattr(layer, "activation", None)
    if activation is not None:
        tensor = ops.convert_to_tensor(sums[None].astype("float32"))
        sums = ops.convert_to_numpy(activation(tensor))[0]
    return np.where(known, sums, np.nan)


def _last(given: Values, count: int) -> np.ndarray:
    """Returns the constants along the axis that has `count` channels."""
    fitting = [a for a, v in given.items() if len(v) == count]
    return given[max(fitting)] if fitting else np.full(count, np.nan)


def _summed(layer: Any, kernel: np.ndarray, given: Values) -> np.ndarray:
    """Dense and convolution, with a kernel that ends in (inputs, outputs)."""
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    constant = _last(given, kernel.shape[1])
    absorbed = can_absorb(layer) & ~np.isnan(constant) | (constant == 0)
    reads = np.any(kernel != 0, axis=0)
    known = ~np.any(reads[~absorbed], axis=0)
    added = np.where(absorbed, np.nan_to_num(constant), 0.0) @ kernel.sum(axis=0)
    return _activated(layer, _bias(layer, kernel.shape[2]) + added, known)


def _dense(layer: Any, given: Values) -> np.ndarray:
    return _summed(layer, _values(layer.kernel), given)


def _transposed(layer: Any, given: Values) -> np.ndarray:
    return _summed(layer, np.swapaxes(_values(layer.kernel), -1, -2), given)


def _separable(layer: Any, given: Values) -> np.ndarray:
    depthwise = _values(layer.depthwise_kernel)
    depthwise = depthwise.reshape(-1, *depthwise.shape[-2:])
    zero = _last(given, depthwise.shape[1]) == 0
    zero = zero[:, None] | ~np.any(depthwise != 0, axis=0)
    between = {0: np.where(zero.ravel(), 0.0, np.nan)}
    return _summed(layer, _values(layer.pointwise_kernel), between)


def _depthwise(layer: Any, given: Values) -> np.ndarray:
    kernel = _values(layer.kernel)
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    constant = _last(given, kernel.shape[1])[:, None]
    whole = layer.padding == "valid" or set(layer.kernel_size) == {1}
    known = (constant == 0) | (whole & ~np.isnan(constant))
    known = known | ~np.any(kernel != 0, axis=0)
    sums = (np.nan_to_num(constant) * kernel.sum(axis=0)).ravel()
    return _activated(layer, _bias(layer, sums.size) + sums, known.ravel())


def _embedding(layer: Any, given: Values) -> np.ndarray:
    table = _values(layer.embeddings)
    return np.where(np.all(table == table[:1], axis=0), table[0], np.nan)


_RECURRENT = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)


def _recurrent(layer: Any, given: Values) -> np.ndarray:
    """A unit whose candidate is always zero stays in the state it starts from."""
    units, cell = layer.units, layer.cell
    # Where the candidate stands among the gates.
    kind = 0 if isinstance(layer, keras.layers.SimpleRNN) else 2
    if not isinstance(layer, _RECURRENT):
        return np.full(units, np.nan)
    columns = slice(kind * units, (kind + 1) * units)
    kernel = _values(cell.kernel)[:, columns]
    recurrent = _values(cell.recurrent_kernel)[:, columns]
    live = _last(given, kernel.shape[0]) != 0
    dead = ~np.any(kernel[live] != 0, axis=0)
    if cell.bias is not None:
        dead &= ~np.any(
            _values(cell.bias)[..., columns].reshape(-1, units) != 0, axis=0
        )
    dead &= float(ops.convert_to_numpy(layer.activation(ops.zeros((1,))))[0]) == 0
    while np.any(dead & np.any(recurrent[~dead] != 0, axis=0)):
        dead &= ~np.any(recurrent[~dead] != 0, axis=0)
    return np.where(dead, 0.0, np.nan)


# What the named channel rules make of constants. Rules are told apart by what they are:
# one of a user's own may have any name.
_CONSTANTS: dict[Flow, str | Callable[[Any, Values], np.ndarray]] = {
    **dict.fromkeys(
        (
            shape_flows.same,
            shape_flows.join,
            kernel_flows.scale,
            kernel_flows.normalization,
        ),
        "each",
    ),
    **dict.fromkeys(
        (
            shape_flows.spatial,
            shape_flows.global_pool,
            shape_flows.reduce,
            shape_flows.repeat_vector,
            shape_flows.reshape,
            shape_flows.permute,
            shape_flows.expand_dims,
            shape_flows.squeeze,
            shape_flows.split,
            shape_flows.get_item,
            shape_flows.concatenate,
        ),
        "moved",
    ),
    kernel_flows.dense: _dense,
    kernel_flows.convolution: _dense,
    kernel_flows.transposed: _transposed,
    kernel_flows.separable: _separable,
    kernel_flows.depthwise: _depthwise,
    kernel_flows.embedding: _embedding,
    sequence_flows.recurrent: _recurrent,
}


def constants_of(operation: Any) -> str | Callable[[Any, Values], np.ndarray] | None:
    """Returns what an operation makes of channels that hold one number each."""
    constants = cell(operation, "constants")
    if constants is None:
        return _CONSTANTS.get(flow_of(operation))
    if constants in ("each", "moved") or callable(constants):
        return constants
    raise InvalidArgumentError(
        f"The rule of {type(operation).__name__} names nothing that is done with "
        "constants.",
        received=repr(constants),
        expected="'each', 'moved' or a function",
    )
