"""How channels flow through layers that have weights."""

from __future__ import annotations

import numpy as np
from keras import layers

from tfcompress.channels.call import Call, flow


@flow(layers.Dense)
def dense(call: Call) -> None:
    """A new set of channels on the last axis."""
    layer, last = call.layer, call.rank() - 1
    made = call.ids.fresh(layer.units)
    source = call.inputs[0].get(last)
    call.weight(layer.kernel, {0: source}, "input", call.node.inputs[0])
    call.weight(layer.kernel, {1: made}, "output")
    call.weight(layer.bias, {0: made}, "channel")
    call.activation(made)
    call.resize(lambda count: {"units": count(made)}, made)
    call.outputs[0] = {**call.inputs[0], last: made}


@flow(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(call: Call) -> None:
    """A new set of channels, in groups or not."""
    layer, axis = call.layer, call.channel_axis()
    call.fix_other_axes(axis, f"is convolved along by {call.label}")
    made = call.ids.fresh(layer.filters)
    source = call.inputs[0].get(axis)
    if layer.groups == 1:
        call.weight(layer.kernel, {-2: source}, "input", call.node.inputs[0])
        call.resize(lambda count: {"filters": count(made)}, made)
    elif source is None:
        call.fix(made, f"is made in groups from unknown channels by {call.label}")
    else:
        _grouped(call, source, made)
    call.weight(layer.kernel, {-1: made}, "output")
    call.weight(layer.bias, {0: made}, "channel")
    call.activation(made)
    call.outputs[0] = {axis: made}


def _grouped(call: Call, source: np.ndarray, made: np.ndarray) -> None:
    layer = call.layer
    groups = layer.groups
    inputs, outputs = source.reshape(groups, -1), made.reshape(groups, -1)
    if groups >= inputs.shape[1]:
        # Many small groups: a group goes as a whole.
        for i, o in zip(inputs, outputs):
            members = np.concatenate([i, o])
            call.ids.tie(np.repeat(members[:1], members.size), members)

        first = outputs[:, 0].copy()
        call.resize(
            lambda count: {"filters": count(made), "groups": count(first)}, made
        )
        return
    # Few large groups: each loses the channels at the same positions.
    for i, o in zip(inputs[1:], outputs[1:]):
        call.ids.tie(inputs[0], i)
        call.ids.tie(outputs[0], o)
    call.weight(layer.kernel, {-2: inputs[0]}, "input", call.node.inputs[0])
    call.resize(lambda count: {"filters": count(made)}, made)


@flow(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed(call: Call) -> None:
    """Transposed convolution: the kernel holds outputs before inputs."""
    layer, axis = call.layer, call.channel_axis()
    call.fix_other_axes(axis, f"is convolved along by {call.label}")
    made = call.ids.fresh(layer.filters)
    source = call.inputs[0].get(axis)
    call.weight(layer.kernel, {-1: source}, "input", call.node.inputs[0])
    call.weight(layer.kernel, {-2: made}, "output")
    call.weight(layer.bias, {0: made}, "channel")
    call.activation(made)
    call.resize(lambda count: {"filters": count(made)}, made)
    call.outputs[0] = {axis: made}


@flow(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise(call: Call) -> None:
    """Each channel makes `depth_multiplier` channels of its own."""
    layer, axis = call.layer, call.channel_axis()
    call.fix_other_axes(axis, f"is convolved along by {call.label}")
    source = call.inputs[0].get(axis)
    if source is None:
        return
    made = np.repeat(source, layer.depth_multiplier)
    call.weight(layer.kernel, {-2: source}, "channel")
    call.weight(layer.bias, {0: made}, "channel")
    call.activation(made)
    call.outputs[0] = {axis: made}


@flow(layers.SeparableConv1D, layers.SeparableConv2D)
def separable(call: Call) -> None:
    """A depthwise convolution and a new set of channels."""
    layer, axis = call.layer, call.channel_axis()
    call.fix_other_axes(axis, f"is convolved along by {call.label}")
    source = call.inputs[0].get(axis)
    made = call.ids.fresh(layer.filters)
    if source is not None:
        call.weight(layer.depthwise_kernel, {-2: source}, "input", call.node.inputs[0])
        between = np.repeat(source, layer.depth_multiplier)
        call.weight(layer.pointwise_kernel, {-2: between}, "input", call.node.inputs[0])
    call.weight(layer.pointwise_kernel, {-1: made}, "output")
    call.weight(layer.bias, {0: made}, "channel")
    call.activation(made)
    call.resize(lambda count: {"filters": count(made)}, made)
    call.outputs[0] = {axis: made}


@flow(layers.Embedding)
def embedding(call: Call) -> None:
    """A new set of channels on a new last axis; the vocabulary stays."""
    layer = call.layer
    call.fix_all(f"is looked up by {call.label}")
    made = call.ids.fresh(layer.output_dim)
    call.weight(layer.embeddings, {1: made}, "output")
    call.resize(lambda count: {"output_dim": count(made)}, made)
    call.outputs[0] = {call.rank(): made}


@flow(layers.BatchNormalization)
def normalization(call: Call) -> None:
    """Statistics and scales per channel: BatchNormalization, LayerNormalization."""
    layer, rank = call.layer, call.rank()
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    axes = [a % rank for a in axes]
    for variable in layer.weights:
        if len(variable.shape) == len(axes):
            found = {i: call.inputs[0].get(a) for i, a in enumerate(axes)}
            call.weight(variable, found, "channel")
    call.outputs[0] = dict(call.inputs[0])


@flow(layers.LayerNormalization, layers.RMSNormalization)
def layer_normalization(call: Call) -> None:
    """As `normalization`, but each channel is measured against the others."""
    normalization(call)
    for members in call.inputs[0].values():
        call.ids.mix(members)


@flow(layers.Normalization)
def adapted_normalization(call: Call) -> None:
    """Normalization: its statistics belong to the data, so its channels stay."""
    call.fix_all(f"is normalized with the data's own statistics by {call.label}")
    call.outputs[0] = dict(call.inputs[0])


@flow(layers.GroupNormalization)
def group_normalization(call: Call) -> None:
    """Groups stay as large as each other, so they lose the same positions."""
    layer = call.layer
    axis = layer.axis % call.rank()
    members = call.inputs[0].get(axis)
    call.outputs[0] = dict(call.inputs[0])
    if members is None:
        return
    for variable in (layer.gamma, layer.beta):
        call.weight(variable, {0: members}, "channel")
    if layer.groups == len(members):
        call.resize(lambda count: {"groups": count(members)}, members)
        return
    call.ids.mix(members)
    parts = members.reshape(layer.groups, -1)
    for part in parts[1:]:
        call.ids.tie(parts[0], part)


@flow(layers.PReLU, operations="applications.LayerScale")
def scale(call: Call) -> None:
    """One weight per channel, along the last axes (LayerScale, PReLU)."""
    layer, rank = call.layer, call.rank()
    for variable in layer.weights:
        offset = rank - len(variable.shape)
        for axis, size in enumerate(variable.shape):
            members = call.inputs[0].get(axis + offset)
            if members is not None and size == len(members):
                call.weight(variable, {axis: members}, "channel")
    if "projection_dim" in layer.get_config() and rank - 1 in call.inputs[0]:
        last = call.inputs[0][rank - 1]
        call.resize(lambda count: {"projection_dim": count(last)}, last)
    call.outputs[0] = dict(call.inputs[0])
