"""How channels flow through operations without kernels: joins, reshapes, pooling."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.channels.call import Call, fixed, flow
from tfcompress.channels.channel_ids import Axes
from tfcompress.core.graph import Tensor
from tfcompress.layers import TRAINING_ONLY

# Beyond this many numbers per sample, a reshape is not followed.
_LARGEST_RESHAPE = 1 << 25


@flow(
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Rescaling,
    *TRAINING_ONLY,
    layers.Masking,
    layers.InputLayer,
    operations="applications.StochasticDepth Absolute Abs Clip Cast Exp Expm1 Log "
    "Log1p Negative Sign "
    "Sqrt Rsqrt Square Tanh Reciprocal Relu Relu6 Sigmoid Softplus Softsign Silu "
    "LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu HardTanh "
    "StopGradient Round",
)
def same(call: Call) -> None:
    """Elementwise: every output channel depends on the same input channel only."""
    axes = dict(call.inputs[0])
    call.activation(axes.get(call.rank() - 1))
    if np.ndim(getattr(call.layer, "scale", 0.0)) or np.ndim(
        getattr(call.layer, "offset", 0.0)
    ):
        call.fix_all(f"has its own constant in {call.label}")
    if isinstance(call.layer, layers.Masking):
        # What it masks are the steps at which all channels have one value.
        for members in axes.values():
            call.ids.mix(members)
    call.outputs[0] = axes


@flow(layers.Softmax, operations="Softmax LogSoftmax")
def softmax(call: Call) -> None:
    """Mixes channels along its axis."""
    axes = getattr(call.layer, "axis", -1)
    for axis in axes if isinstance(axes, list | tuple) else [axes]:
        call.fix(
            call.inputs[0].get(axis % call.rank()),
            f"is mixed with other channels by {call.label}",
        )
    call.outputs[0] = dict(call.inputs[0])


@flow(
    layers.MaxPooling1D,
    layers.AveragePooling1D,
    layers.UpSampling1D,
    layers.ZeroPadding1D,
    layers.Cropping1D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.UpSampling2D,
    layers.ZeroPadding2D,
    layers.Cropping2D,
    layers.MaxPooling3D,
    layers.AveragePooling3D,
    layers.UpSampling3D,
    layers.ZeroPadding3D,
    layers.Cropping3D,
    layers.Resizing,
    layers.CenterCrop,
)
def spatial(call: Call) -> None:
    """Works within each channel: pooling, padding, cropping, upsampling."""
    channel = call.channel_axis()
    call.fix_other_axes(channel, f"is moved along by {call.label}")
    call.outputs[0] = {a: i for a, i in call.inputs[0].items() if a == channel}


@flow(
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Maximum,
    layers.Minimum,
    layers.Average,
    operations="Add Subtract Multiply Divide TrueDivide Maximum Minimum Power",
)
def join(call: Call) -> None:
    """Elementwise on several tensors, which may be broadcast: ties their channels."""
    output = call.output_tensors[0]
    rank = len(output.shape)
    operands = [
        (leaf.shape if isinstance(leaf, Tensor) else np.shape(leaf), leaf)
        for leaf in keras.tree.flatten((call.node.args, call.node.kwargs))
        if isinstance(leaf, Tensor) or hasattr(leaf, "shape")
    ]
    axes_of = dict(zip(map(id, call.node.inputs), call.inputs))
    for axis in range(1, rank):
        known: list[np.ndarray] = []
        opaque = False
        for shape, leaf in operands:
            own = axis - (rank - len(shape))
            if own < 0:
                continue
            members = axes_of.get(id(leaf), {}).get(own)
            if shape[own] == 1 and output.shape[axis] != 1:
                call.fix(members, f"is broadcast by {call.label}")
            elif members is None:
                opaque = True
            else:
                known.append(members)
        for members in known[1:]:
            call.ids.tie(known[0], members)
        if known:
            call.outputs[0][axis] = known[0]
            if opaque:
                reason = f"is combined with unknown channels by {call.label}"
                call.fix(known[0], reason)


@flow(layers.Concatenate, operations="Concatenate")
def concatenate(call: Call) -> None:
    """Puts channels one after the other along its axis, ties them along others."""
    rank = call.rank()
    axis = call.layer.axis % rank
    for other in range(1, rank):
        found = [axes.get(other) for axes in call.inputs]
        known = [members for members in found if members is not None]
        if not known:
            continue
        if other == axis:
            reason = f"is joined to other channels by {call.label}"
            parts = [
                members
                if members is not None
                else call.ids.fresh(call.shape(i)[axis] or 0, reason)
                for i, members in enumerate(found)
            ]
            call.outputs[0][axis] = np.concatenate(parts)
            continue
        for members in known[1:]:
            call.ids.tie(known[0], members)
        if len(known) < len(found):
            call.fix(known[0], f"is combined with unknown channels by {call.label}")
        call.outputs[0][other] = known[0]


@flow(layers.Permute, operations="Transpose")
def permute(call: Call) -> None:
    """Moves axes about."""
    if hasattr(call.layer, "dims"):
        order = (0, *call.layer.dims)
    else:
        order = call.layer.axes or tuple(reversed(range(call.rank())))
    for target, source in enumerate(order):
        if source % call.rank() in call.inputs[0]:
            call.outputs[0][target] = call.inputs[0][source % call.rank()]


@flow(
    layers.GlobalAveragePooling1D,
    layers.GlobalMaxPooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling3D,
)
def global_pool(call: Call) -> None:
    """Reduces all axes but the channels'."""
    channel = call.channel_axis()
    call.fix_other_axes(channel, f"is averaged over by {call.label}")
    if channel in call.inputs[0]:
        target = channel if call.layer.keepdims else 1
        call.outputs[0] = {target: call.inputs[0][channel]}


@flow(operations="Mean Sum Max Min Amax Amin")
def reduce(call: Call) -> None:
    """`keras.ops.mean` and the like, along given axes."""
    rank = call.rank()
    axes = call.layer.axis
    axes = range(rank) if axes is None else axes
    reduced = {a % rank for a in ([axes] if isinstance(axes, int) else axes)}
    for axis, members in call.inputs[0].items():
        if axis in reduced:
            call.fix(members, f"is reduced over by {call.label}")
        elif call.layer.keepdims:
            call.outputs[0][axis] = members
        else:
            call.outputs[0][axis - sum(r < axis for r in reduced)] = members


@flow(layers.RepeatVector)
def repeat_vector(call: Call) -> None:
    """Adds a time axis."""
    call.outputs[0] = {axis + 1: i for axis, i in call.inputs[0].items()}


@flow(layers.Flatten, layers.Reshape, operations="Reshape")
def reshape(call: Call) -> None:
    """Any reshape: each channel of the output is the set of channels it is cut from.

    Flattening an image repeats the channels along the features; the opposite, a
    Dense layer reshaped into an image, ties all features of a channel.
    """
    source, axes = call.shape(), call.inputs[0]
    if len(axes) > 1:
        axes = {a: i for a, i in axes.items() if not call.ids.are_fixed(i)}
    target = call.output_tensors[0].shape
    if not axes:
        return
    if getattr(call.layer, "data_format", None) == "channels_first":
        order = [0, *range(2, len(source)), 1]
        source = tuple(source[i] for i in order)
        axes = {order.index(a): members for a, members in axes.items()}
    last = len(source) - 1
    if list(axes) == [last] and source[last] == target[-1] and len(target) > 1:
        call.outputs[0] = {len(target) - 1: axes[last]}
        _resize_reshape(call, len(target) - 1, axes[last])
        return
    made = reshaped(source, target, axes) if len(axes) == 1 else None
    if made is None:
        call.fix_all(f"is reshaped by {call.label} in a way that cannot be followed")
        return
    axis, table = made
    for row in table[1:]:
        call.ids.tie(table[0], row)
    call.outputs[0] = {axis: table[0]}
    _resize_reshape(call, axis, table[0])


def reshaped(source: tuple, target: tuple, axes: Axes) -> tuple[int, Any] | None:
    """Returns the channel axis after a reshape and a table of what lands on it.

    Row by row, the table holds the entry of `axes` that each position of the new
    axis is made of. `None` if the reshape cannot be followed.
    """
    sizes = source[1:]
    if len(axes) != 1 or None in sizes or None in target[1:]:
        return None
    if math.prod(sizes) > _LARGEST_RESHAPE:
        return None
    ((axis, members),) = axes.items()
    own = [1] * len(sizes)
    own[axis - 1] = len(members)
    full = np.broadcast_to(members.reshape(own), sizes).reshape(target[1:])
    varying = [
        a for a in range(full.ndim) if np.any(full != np.take(full, [0], axis=a))
    ]
    if not varying:
        return None
    moved = np.moveaxis(full, varying[-1], -1).reshape(-1, full.shape[varying[-1]])
    return varying[-1] + 1, np.unique(moved, axis=0)


def _resize_reshape(call: Call, axis: int, members: np.ndarray) -> None:
    for key, offset in (("target_shape", 1), ("newshape", 0)):
        wanted = getattr(call.layer, key, None)
        # A free dimension follows by itself.
        if wanted is not None and wanted[axis - offset] != -1:

            def update(count: Any, key: str = key, at: int = axis - offset) -> dict:
                sizes = list(getattr(call.layer, key))
                sizes[at] = count(members)
                return {key: tuple(sizes)}

            call.resize(update, members)


@flow(operations="ExpandDims")
def expand_dims(call: Call) -> None:
    rank = len(call.output_tensors[0].shape)
    axes = call.layer.axis
    new = sorted(a % rank for a in ([axes] if isinstance(axes, int) else axes))
    old = [a for a in range(rank) if a not in new]
    call.outputs[0] = {old[axis]: i for axis, i in call.inputs[0].items()}


@flow(operations="Squeeze")
def squeeze(call: Call) -> None:
    rank, axes = call.rank(), call.layer.axis
    if axes is None:
        axes = [a for a, size in enumerate(call.shape()) if size == 1]
    gone = {a % rank for a in ([axes] if isinstance(axes, int) else axes)}
    for axis, members in call.inputs[0].items():
        if axis in gone:
            call.fix(members, f"is squeezed away by {call.label}")
        else:
            call.outputs[0][axis - sum(g < axis for g in gone)] = members


@flow(operations="Split")
def split(call: Call) -> None:
    """Cuts the channels into parts, each with its own."""
    axis = call.layer.axis % call.rank()
    members = call.inputs[0].get(axis)
    cut = call.layer.indices_or_sections
    for index, output in enumerate(call.outputs):
        output.update({a: i for a, i in call.inputs[0].items() if a != axis})
        if members is not None:
            sections = cut if isinstance(cut, int) else list(cut)
            output[axis] = np.split(members, sections)[index]
    if members is None:
        return
    if isinstance(cut, int):
        # Equal parts stay equal only if they lose the same positions.
        parts = np.split(members, cut)
        for part in parts[1:]:
            call.ids.tie(parts[0], part)
        return
    call.resize(
        lambda count: {"indices_or_sections": [count(members[:i]) for i in cut]},
        members,
    )


@flow(operations="GetItem")
def get_item(call: Call) -> None:
    """Indexing: followed where the channel axis is taken whole."""
    key = call.node.args[1] if len(call.node.args) > 1 else call.node.kwargs["key"]
    key = key if isinstance(key, tuple | list) else (key,)
    if not all(isinstance(k, slice | int) or k in (Ellipsis, None) for k in key):
        fixed(call)
        return
    taken = sum(k is not None and k is not Ellipsis for k in key)
    full = [slice(None)] * (call.rank() - taken)
    where = key.index(Ellipsis) if Ellipsis in key else len(key)
    key = (*key[:where], *full, *key[where + 1 :])
    source = target = 0
    for k in key:
        if k is None:
            target += 1
            continue
        members = call.inputs[0].get(source)
        if members is not None:
            if k == slice(None):
                call.outputs[0][target] = members
            else:
                call.fix(members, f"is indexed by {call.label}")
                if isinstance(k, slice):
                    call.outputs[0][target] = members[k]
        source += 1
        target += not isinstance(k, int)
