"""The one table of layer types: kernels and axes, how numbers flow, MACs.

Pruning, quantization, channel removal and the reports all read it; a layer type is
described here and nowhere else. Rules are found along the class's MRO, so a
subclass of a known layer inherits its rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras
from keras import layers

from tfcompress.core.attached_mask import AttachedMask
from tfcompress.core.graph import Node, Tensor
from tfcompress.core.held_tensor import HeldTensor
from tfcompress.core.select import walk
from tfcompress.layers import layer_macs

Flow = Literal[
    "compute",  # a linear operation with a kernel: its output has a range of its own
    "fold",  # scale and offset per channel: part of the operation before it
    "activate",  # an elementwise activation
    "arithmetic",  # any other operation that makes new numbers (Add, mean ...)
    "select",  # passes some of its input's numbers on: shares the input's range
    "average",  # averages within its input's range, which integer kernels keep
    "concatenate",  # all inputs and the output share one range
    "lookup",  # reads whole numbers, makes new ones (Embedding, a cast to floats)
    "float",  # no integer kernel is known
]


# How numbers flow through operations of `keras.ops`, by the name of the operation.
OPERATION_FLOWS: dict[str, Flow] = {
    **dict.fromkeys(
        (
            *("BroadcastTo", "ExpandDims", "Flip", "GetItem", "Identity", "Moveaxis"),
            *("Pad", "Ravel", "Repeat", "Reshape", "Roll", "Rot90", "Slice"),
            *("Squeeze", "Swapaxes", "Take", "Tile", "Transpose"),
            *("Amax", "Amin", "Max", "Min", "MaxPool", "DepthToSpace", "SpaceToDepth"),
            *("Maximum", "Minimum"),  # of a tensor and a number
            # Answers to what lies in a range.
            *("Greater", "GreaterEqual", "Less", "LessEqual"),
        ),
        "select",
    ),
    **dict.fromkeys(("Exp", "Gelu", "Log", "Rsqrt"), "activate"),
    "LogSoftmax": "activate",
    **dict.fromkeys(("Matmul", "Mean", "Sum"), "arithmetic"),
    **dict.fromkeys(("Cast", "OneHot"), "lookup"),
    "Concatenate": "concatenate",
    "Stack": "concatenate",
    "Where": "concatenate",
}


def _layers(names: str) -> tuple[type, ...]:
    """Returns the layers of these names that the installed Keras has."""
    return tuple(getattr(layers, n) for n in names.split() if hasattr(layers, n))


# Layers that change nothing once training is over.
TRAINING_ONLY = _layers(
    "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianDropout "
    "GaussianNoise AlphaDropout ActivityRegularization Identity AugMix CutMix "
    "Equalization MaxNumBoundingBoxes MixUp RandAugment RandomBrightness "
    "RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop "
    "RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur "
    "RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization "
    "RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation "
    "RandomZoom Solarization"
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One weight tensor of a layer.

    Attributes:
        attribute: where it is found on the layer (`"kernel"`, `"cell.kernel"`).
        output_axes: axes that run over output channels; every other axis is summed
            over or shared.
        input_axes: axes that run over input channels; none for a kernel that is not
            multiplied with a vector of inputs (depthwise, embeddings).
        gates: how many kernels lie side by side along the last axis (LSTM: 4).
    """

    attribute: str
    output_axes: tuple[int, ...] = (-1,)
    input_axes: tuple[int, ...] = (-2,)
    gates: int = 1

    def find(self, layer: keras.Layer) -> Any:
        """Returns the layer's variable for this kernel, or `None` without one."""
        value: Any = layer
        for part in self.attribute.split("."):
            value = getattr(value, part, None)
        return value

    def of(self, layer: keras.Layer) -> Kernel:
        """Returns this kernel with the axes it has in `layer`."""
        return self

    def reduction_axes(self, rank: int) -> tuple[int, ...]:
        """Returns the axes of a kernel of `rank` that are not output channels."""
        kept = {axis % rank for axis in self.output_axes}
        return tuple(axis for axis in range(rank) if axis not in kept)


class EinsumKernel(Kernel):
    """The kernel of an EinsumDense, whose equation says what its axes are."""

    def of(self, layer: Any) -> Kernel:
        equation = layer.equation.replace("...", "").replace(" ", "")
        _, kernel, outputs = equation.replace("->", ",").split(",")
        rank = len(kernel)
        out = tuple(i - rank for i, axis in enumerate(kernel) if axis in outputs)
        summed = tuple(i - rank for i, axis in enumerate(kernel) if axis not in outputs)
        return Kernel(self.attribute, out, summed)


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """What tfcompress knows about a layer type.

    Attributes:
        layer_type: the Keras layer class; subclasses inherit the rule.
        kernels: weights that can be pruned, clustered and quantized.
        flow: how the layer treats the numbers that flow through it.
        macs: `(layer, input shapes, output shape) -> int`, multiply-accumulates of
            one sample, shapes without the batch axis and inputs in the order of
            `call`. With `None`, what the layer's `call` does is counted.
        channel_granularity: whether integer kernels take one scale per channel.
        channels: how channels flow through, which `shrink` must know to remove
            some: `"same"` for a layer that treats each channel on its own, another
            name from docs/shrink.md, or a function of a
            `tfcompress.channels.call.Call`. With `None`, the channels that go
            in and come out stay. `restructuring` fills it in for Keras' layers.
        training_only: whether it gives on its input unchanged once training is over,
            as dropout does; `finalize` takes it out.
    """

    layer_type: type
    flow: Flow = "float"
    kernels: tuple[Kernel, ...] = ()
    macs: Callable[[Any, list, tuple], int] | None = None
    channel_granularity: bool = True
    channels: str | Callable[[Any], None] | None = None
    training_only: bool = False


_rules: dict[type, LayerRule] = {}


def register_layer_rule(rule: LayerRule) -> LayerRule:
    """Adds a rule to the table, or replaces the one of the same layer type.

    When to use: to teach tfcompress a layer of your own.

    Args:
        rule: the rule.

    Returns:
        The rule.

    Example:

    >>> class Scaled(keras.layers.Dense):
    ...     pass
    >>> rule_of(Scaled(2)).layer_type.__name__     # inherited
    'Dense'
    >>> rule = LayerRule(Scaled, "compute", (Kernel("kernel"),))
    >>> register_layer_rule(rule) is rule_of(Scaled(2))
    True
    """
    _rules[rule.layer_type] = rule
    return rule


def rule_of(layer: Any) -> LayerRule | None:
    """Returns the rule for a layer, looked up along its class's MRO."""
    return rule_of_type(type(layer))


def rule_of_type(layer_type: type) -> LayerRule | None:
    """Returns the rule for a layer class, its own or inherited.

    Of a rule that a class inherits whose `call` is another, only the kernels are left:
    what it computes with them is not known.
    """
    for cls in layer_type.__mro__:
        if cls in _rules:
            if has_call_of_its_own(layer_type, cls):
                return LayerRule(layer_type, kernels=_rules[cls].kernels)
            return _rules[cls]
    return None


def knows(layer: Any) -> bool:
    """Returns whether the table says what a layer computes, not its kernels alone."""
    known = next((cls for cls in type(layer).__mro__ if cls in _rules), None)
    return known is not None and not has_call_of_its_own(type(layer), known)


def changes_nothing(node: Node) -> bool:
    """Returns whether a node gives on its input unchanged once training is over."""
    layer = node.operation
    if isinstance(layer, layers.Pipeline):
        inner = [dataclasses.replace(node, operation=one) for one in layer.layers]
        return all(map(changes_nothing, inner))
    rule = rule_of(layer)
    alone = len(node.args) == 1 and isinstance(node.args[0], Tensor)
    # A `training=True` of the call has no say: `predict` and exports overrule it. A
    # subclass with a `call` of its own has: Monte Carlo dropout goes on for ever.
    return rule is not None and rule.training_only and alone


def has_call_of_its_own(layer_type: type, known: type) -> bool:
    """Returns whether a subclass computes something else than the class it is of."""
    return getattr(layer_type, "call", None) is not getattr(known, "call", None)


def kernels_of(layer: keras.Layer) -> Iterator[tuple[Kernel, keras.Variable]]:
    """Yields the kernels of a layer that exist, with their variables."""
    rule = rule_of(layer)
    for kernel in rule.kernels if rule else ():
        variable = kernel.find(layer)
        if variable is not None:
            yield kernel.of(layer), variable


def model_kernels(
    model: keras.Model,
) -> Iterator[tuple[str, Kernel, keras.Variable]]:
    """Yields `(layer path, kernel, variable)` for all kernels, each variable once."""
    seen: set[int] = set()
    for path, layer in walk(model):
        for kernel, variable in kernels_of(layer):
            if id(variable) not in seen:
                seen.add(id(variable))
                yield path, kernel, variable


def operation_name(operation: Any) -> str:
    """Returns the class name of an operation of Keras' own; "" for anything else.

    Classes behind `keras.ops` have no public name, so tables name them by text. A
    user's class that bears the same name is another operation.
    """
    kind = type(operation)
    return kind.__name__ if kind.__module__.split(".")[0] == "keras" else ""


def _fill_table() -> None:
    def add(flow: Flow, *types: type, **rule: Any) -> None:
        for layer_type in types:
            register_layer_rule(LayerRule(layer_type, flow, **rule))

    last = (Kernel("kernel"),)
    add("compute", layers.Dense, kernels=last, macs=layer_macs.dense)
    add(
        "compute",
        layers.Conv1D,
        layers.Conv2D,
        kernels=last,
        macs=layer_macs.convolution,
    )
    add(
        "compute",
        layers.DepthwiseConv1D,
        layers.DepthwiseConv2D,
        kernels=(Kernel("kernel", (-2, -1), ()),),
        macs=layer_macs.convolution,
    )
    add(
        "compute",
        layers.SeparableConv1D,
        layers.SeparableConv2D,
        kernels=(
            Kernel("depthwise_kernel", (-2, -1), ()),
            Kernel("pointwise_kernel"),
        ),
        macs=layer_macs.separable,
    )
    transposed = (Kernel("kernel", (-2,), (-1,)),)
    add(
        "compute",
        layers.Conv1DTranspose,
        layers.Conv2DTranspose,
        kernels=transposed,
        macs=layer_macs.transposed,
    )
    add("float", layers.Conv3DTranspose, kernels=transposed, macs=layer_macs.transposed)
    add("float", layers.Conv3D, kernels=last, macs=layer_macs.convolution)
    add(
        "float",
        layers.EinsumDense,
        macs=layer_macs.einsum_dense,
        kernels=(EinsumKernel("kernel"),),
    )
    add(
        "lookup",
        layers.Embedding,
        kernels=(Kernel("embeddings", (0,), ()),),
        macs=layer_macs.embedding,
    )
    for recurrent, gates in ((layers.LSTM, 4), (layers.GRU, 3), (layers.SimpleRNN, 1)):
        names = ("cell.kernel", "cell.recurrent_kernel")
        kernels = tuple(Kernel(name, gates=gates) for name in names)
        add("float", recurrent, kernels=kernels, macs=layer_macs.recurrent)
    convolutional = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
    add("float", *convolutional, macs=layer_macs.convolutional_recurrent)
    attention = (layers.MultiHeadAttention, layers.GroupQueryAttention)
    add("float", *attention, macs=layer_macs.attention)
    add("float", layers.Attention, macs=layer_macs.weightless_attention)
    add("float", layers.AdditiveAttention, macs=layer_macs.additive_attention)
    # Expanded into operations with integer kernels where their options allow it.
    add(
        "float",
        layers.LayerNormalization,
        layers.RMSNormalization,
        layers.UnitNormalization,
        layers.GroupNormalization,
        layers.Bidirectional,
    )
    add("fold", layers.BatchNormalization, layers.Rescaling, layers.Normalization)
    add(
        "activate",
        layers.Activation,
        layers.ReLU,
        layers.Softmax,
        layers.LeakyReLU,
        layers.ELU,
        layers.PReLU,
    )
    add(
        "arithmetic",
        layers.Add,
        layers.Subtract,
        layers.Multiply,
        layers.GlobalAveragePooling1D,
        layers.GlobalAveragePooling2D,
    )
    add(
        "select",
        layers.MaxPooling1D,
        layers.MaxPooling2D,
        layers.GlobalMaxPooling1D,
        layers.GlobalMaxPooling2D,
        layers.ZeroPadding1D,
        layers.ZeroPadding2D,
        layers.Cropping1D,
        layers.Cropping2D,
        layers.Flatten,
        layers.Reshape,
        layers.Permute,
        layers.RepeatVector,
        layers.Resizing,
        layers.UpSampling1D,
        layers.UpSampling2D,
        layers.InputLayer,
    )
    add("select", *TRAINING_ONLY, training_only=True)
    texts = "Hashing HashedCrossing IntegerLookup StringLookup TextVectorization"
    add("lookup", *_layers(f"CategoryEncoding Discretization {texts}"))
    # What a layer that was opened held itself, and the mask that it made.
    add("arithmetic", HeldTensor)
    add("select", AttachedMask, channels="same", training_only=True)
    add("average", layers.AveragePooling1D, layers.AveragePooling2D)
    add("concatenate", layers.Concatenate, layers.Maximum, layers.Minimum)


_fill_table()
