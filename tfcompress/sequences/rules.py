"""How each layer runs on a part of a sequence: the column `streams` of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from tfcompress.core.attached_mask import AttachedMask
from tfcompress.core.graph import Node, Tensor
from tfcompress.layers import column, fill
from tfcompress.layers.families.preprocessing import TRAINING_ONLY
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.recurrent_steps import RecurrentSteps
from tfcompress.quantization.time_distributed import SamplesAsSteps, StepsAsSamples
from tfcompress.sequences.call import Call, NeedsAll, Steps

_ABSENT = object()
_UNROLLED = 16
_CAUSAL = "use padding='causal', and train again"


def each(call: Call) -> None:
    """Each step on its own, unless the layer works along the axis of time."""
    axis: Any = getattr(call.layer, "axis", _ABSENT)
    if axis is not _ABSENT and not call.steps.merged:
        axes = axis if isinstance(axis, (list, tuple)) else [axis]
        if any(one is None or one % call.rank in (0, 1) for one in axes):
            raise NeedsAll(
                f"it works along time, axis={axis}", "let it work along the features"
            )
    if call.plain:
        raise NeedsAll(
            "it joins a sequence with what is no sequence",
            "give what belongs to each step as a sequence",
        )
    call.each()


fill(
    (
        *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU),
        *(layers.Softmax, layers.BatchNormalization, layers.Rescaling),
        *(layers.LayerNormalization, layers.RMSNormalization),
        *(layers.UnitNormalization, layers.Normalization),
        *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
        *(layers.Maximum, layers.Minimum, layers.Concatenate),
        *(layers.Dense, layers.TimeDistributed),
        *(FakeQuantize, AttachedMask, *TRAINING_ONLY),
    ),
    streams="each",
)
_ELEMENTWISE = """
Abs Absolute Add Ceil Celu Clip Cast Divide DivideNoNan Elu Equal Erf Exp Expm1 Floor
Gelu Greater GreaterEqual HardShrink HardSigmoid HardSilu HardTanh LeakyRelu Less
LessEqual Log Log1p Log2 LogSigmoid LogicalAnd LogicalNot LogicalOr Maximum Minimum Mish
Multiply Negative NotEqual Power Reciprocal Relu Relu6 Round Rsqrt Selu Sigmoid Sign
Silu Softplus Softsign Sqrt Square Subtract Tanh TanhShrink Threshold TrueDivide Where
ZerosLike OnesLike Softmax LogSoftmax Concatenate
Amax Amin ExpandDims Max Mean Min Squeeze Std Sum Var
"""
fill(_ELEMENTWISE.split(), streams="each")


@column("streams", layers.PReLU)
def _prelu(call: Call) -> None:
    if call.layer.shared_axes is None or 1 not in call.layer.shared_axes:
        raise NeedsAll("it has a slope for each step", "pass shared_axes=[1]")
    call.each()


@column("streams", layers.EinsumDense)
def _einsum(call: Call) -> None:
    source, rest = call.layer.equation.replace(" ", "").split(",")
    kernel, target = rest.split("->")
    time = source[1:2]
    kept = "." not in call.layer.equation and target[1:2] == time
    if not kept or time in kernel:
        raise NeedsAll("its equation may join steps", "name all axes: 'btc,cd->btd'")
    call.each()


@column("streams", layers.Reshape)
def _reshape(call: Call) -> None:
    made = call.old.output.shape
    if len(made) < 2 or made[1] != call.old.inputs[0].shape[1] or made[1] is None:
        raise NeedsAll("it moves numbers between steps", "keep the axis of time")
    length = call.steps.before + call.steps.count
    call.each(target_shape=(length, *made[2:]))


@column("streams", layers.Permute)
def _permute(call: Call) -> None:
    if call.layer.dims[0] != 1:
        raise NeedsAll("it moves the axis of time", "keep it the first")
    call.each()


@column("streams", layers.Embedding)
def _embedding(call: Call) -> None:
    if call.layer.mask_zero:
        raise NeedsAll(
            "it marks steps that do not count, mask_zero=True",
            "pass mask_zero=False, and feed steps that count",
        )
    call.each()


@column("streams", layers.Masking)
def _masking(call: Call) -> None:
    raise NeedsAll(
        "it marks steps that do not count", "leave it out: feed steps that count"
    )


@column("streams", layers.Conv1D, layers.DepthwiseConv1D, layers.SeparableConv1D)
def _convolution(call: Call) -> None:
    """The steps before those of a call are a state, zeros at first, as the padding."""
    layer, steps = call.layer, call.steps
    (size,), (stride,), (rate,) = layer.kernel_size, layer.strides, layer.dilation_rate
    reach = rate * (size - 1)
    if layer.data_format != "channels_last":
        raise NeedsAll("its channels come first", "use data_format='channels_last'")
    if layer.padding == "same" and reach:
        raise NeedsAll("it looks ahead, padding='same'", _CAUSAL)
    causal = layer.padding == "causal"
    if not causal and steps.before < reach:
        raise NeedsAll(
            "it has no steps before the first ones, padding='valid'",
            "use padding='causal', or a ZeroPadding1D of (dilation * (size - 1), 0)",
        )
    before = steps.before + (reach if causal else 0)
    _check_rate(steps.count, stride, before == reach)
    source = call.input
    if causal:
        source = call.with_history(reach)
    made = Steps(steps.count // stride, before - reach)
    call.runs(made, source, **({"padding": "valid"} if causal else {}))


@column("streams", layers.ZeroPadding1D)
def _padding(call: Call) -> None:
    left, right = call.layer.padding
    if right:
        raise NeedsAll("it pads behind the sequence", "pad in front of it alone")
    if call.steps.before:
        raise NeedsAll("it pads what is padded already", "pad once")
    longer = call.with_history(left)
    call.gives([longer], Steps(call.steps.count, left))


@column("streams", layers.Cropping1D)
def _cropping(call: Call) -> None:
    left, right = call.layer.cropping
    if right or left > call.steps.before:
        raise NeedsAll("it cuts steps off", "cut off what a padding has added")
    call.runs(dataclasses.replace(call.steps, before=call.steps.before - left))


@column("streams", layers.MaxPooling1D, layers.AveragePooling1D)
def _pooling(call: Call) -> None:
    layer = call.layer
    (size,), (stride,) = layer.pool_size, layer.strides
    if size != stride or layer.padding != "valid" or call.steps.before:
        raise NeedsAll(
            "its windows reach over several calls",
            "use strides equal to pool_size, and padding='valid'",
        )
    _check_rate(call.steps.count, stride, True)
    call.runs(Steps(call.steps.count // stride))


@column("streams", layers.UpSampling1D)
def _repeating(call: Call) -> None:
    steps, size = call.steps, call.layer.size
    call.runs(Steps(steps.count * size, steps.before * size))


def _check_rate(count: int, stride: int, aligned: bool) -> None:
    if stride > 1 and (count % stride or not aligned):
        raise NeedsAll(
            f"it takes {stride} steps for each that it gives",
            f"pass `steps`, a multiple of {stride} where this layer is"
            if aligned
            else "pad by as much as the kernel reaches back",
        )


@column("streams", layers.RNN, layers.LSTM, layers.GRU, layers.SimpleRNN)
def _recurrent(call: Call) -> None:
    """The states that it ends with are those that it begins with next time."""
    layer, stream, node = call.layer, call.stream, call.node
    _check_recurrent(call, layer.go_backwards, node.kwargs)
    if layer.stateful:
        raise NeedsAll(
            "it is stateful, and keeps its state itself", "pass stateful=False"
        )
    batch = call.input.shape[0]

    def state(size: int) -> str:
        return stream.state(node.name, (batch, size), layer.compute_dtype)

    sizes = layer.cell.state_size
    sizes = list(sizes) if isinstance(sizes, (list, tuple)) else [sizes]
    if not all(isinstance(one, int) for one in keras.tree.flatten(sizes)) or any(
        isinstance(one, tuple) for one in sizes
    ):
        raise NeedsAll("its cell has states that are no vectors", "use LSTM or GRU")
    names = keras.tree.map_structure(state, sizes)
    kwargs = dict(node.kwargs)
    if not stream.begins:
        kwargs["initial_state"] = keras.tree.map_structure(stream.states.get, names)
    ends = keras.tree.map_structure(
        lambda size: Tensor((batch, size), layer.compute_dtype), sizes
    )
    first, *others = call.old.output_tensors
    steps = call.steps if layer.return_sequences else None
    length = call.steps.count
    shape = (batch, length, *first.shape[2:]) if steps else first.shape
    output = Tensor(shape, first.dtype)
    # A loop of few steps takes longer than they do: 3 times, of one step in LiteRT.
    flat = {"unroll": True} if length <= _UNROLLED else {}
    changes = stream.changed(node.operation, return_state=True, **flat)
    stream.add(
        dataclasses.replace(node, **changes, kwargs=kwargs, outputs=[output, *ends])
    )
    _hand_on(call, keras.tree.flatten(names), keras.tree.flatten(ends))
    call.gives([output], steps)
    for old, new in zip(others, keras.tree.flatten(ends)):
        stream.tensors[old] = new


@column("streams", RecurrentSteps)
def _recurrent_steps(call: Call) -> None:
    """The same with integers: of calls after the first, only later steps."""
    layer, stream, node = call.layer, call.stream, call.node
    _check_recurrent(call, layer.backwards, node.kwargs)
    continued: list[Tensor] = []
    names = []
    for number in range(layer.states):
        rounding = layer.state_range(number)
        shape = (call.input.shape[0], *rounding.output.shape[1:])
        names.append(stream.state(node.name, shape, "float32"))
        if not stream.begins:
            made = Tensor(shape, "float32")
            given = stream.states[names[-1]]
            stream.add(dataclasses.replace(rounding, args=(given,), outputs=made))
            continued.append(made)
    nodes, outputs, ends = layer.unrolled(
        node, own_ranges=False, continued=None if stream.begins else continued
    )
    stream.add(*nodes)
    _hand_on(call, names, ends)
    call.gives(outputs[:1], call.steps if layer.return_sequences else None)
    for old, new in zip(call.old.output_tensors[1:], outputs[1:]):
        stream.tensors[old] = new


def _check_recurrent(call: Call, backwards: bool, kwargs: dict) -> None:
    if backwards:
        raise NeedsAll(
            "it reads the sequence from its end", "pass go_backwards=False, and train"
        )
    if kwargs.get("mask") is not None:
        raise NeedsAll(
            "it has a mask",
            "leave out the mask (Masking, mask_zero): feed steps that count",
        )
    if kwargs.get("initial_state") is not None or len(call.node.inputs) > 1:
        raise NeedsAll(
            "its first state comes from the model", "let it begin with zeros"
        )
    if call.steps.before:
        raise NeedsAll("it reads the padding in front of it", "pad behind it")


def _hand_on(call: Call, names: list[str], ends: list[Tensor]) -> None:
    call.stream.next_states.update(zip(names, ends))


@column("streams", StepsAsSamples)
def _as_samples(call: Call) -> None:
    call.runs(dataclasses.replace(call.steps, merged=True))


@column("streams", SamplesAsSteps)
def _as_steps(call: Call) -> None:
    steps = dataclasses.replace(call.steps, merged=False)
    call.runs(steps, time=steps.before + steps.count)


@column("streams", "GetItem")
def _item(call: Call) -> None:
    """The last step of a sequence is the last of each part; others need all."""
    key = call.node.args[1] if len(call.node.args) > 1 else call.node.kwargs["key"]
    key = key if isinstance(key, tuple) else (key,)
    everything = slice(None)
    if key[0] is Ellipsis and len(key) - 1 <= call.rank - 2:
        key = (everything, everything, *key)  # the features alone
    ahead = (*key, *[everything] * 2)[:2]
    length = call.old.inputs[0].shape[1]
    if ahead == (everything, everything):
        call.each()
    elif ahead[0] == everything and ahead[1] in (-1, (length or 0) - 1):
        old = call.old.output
        made = Tensor(old.shape, old.dtype)
        taken = (key[0], -1, *key[2:])
        args = (call.input, taken)
        node = Node(call.node.operation, args, {}, made)
        call.stream.add(node)
        call.gives([made], None)
    else:
        raise NeedsAll(
            "it picks steps out by their number",
            "take the last one, x[:, -1]. Of a model that `calibrate` made, "
            "recurrent layers are taken apart: stream the float model, and calibrate "
            "that, or use quantize_aware",
        )


def refused(reason: str, fix: str) -> Callable[[Call], None]:
    """Returns the rule of a layer that never runs on a part of a sequence."""

    def rule(call: Call) -> None:
        raise NeedsAll(reason, fix)

    return rule


fill(
    (layers.Bidirectional,),
    streams=refused("it reads the sequence from its end", "use its forward layer"),
)
fill(
    (
        *(layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D),
        *(layers.Flatten, layers.GroupNormalization),
    ),
    streams=refused(
        "it puts all steps together",
        "use the last output of a recurrent layer, or x[:, -1]",
    ),
)
fill(
    (
        *(layers.MultiHeadAttention, layers.GroupQueryAttention),
        *(layers.Attention, layers.AdditiveAttention),
    ),
    streams=refused(
        "attention looks at all steps", "use causal convolutions or recurrent layers"
    ),
)
