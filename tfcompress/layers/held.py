"""Layers whose work is that of the layers they hold, and layers without any."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import layers

from tfcompress.core.attached_mask import AttachedMask
from tfcompress.core.held_tensor import HeldTensor
from tfcompress.layers import layer_macs
from tfcompress.layers.rules import LayerRule

HeldCall = tuple[int, Any, list]
"""How often a held layer is called for one call, which it is, and on what."""

HeldCalls = Callable[[Any, list], Iterable[HeldCall]]

_held: dict[type, HeldCalls] = {}


def wrapped(layer: Any, inputs: list) -> list[HeldCall]:
    """A wrapper that calls its layer once, on its first input."""
    return [(1, layer.layer, inputs[:1])]


def holds(layer_type: type, calls: HeldCalls = wrapped) -> None:
    """Says that a layer multiplies nothing but in the calls of layers that it holds.

    Args:
        layer_type: the layer class.
        calls: gets the layer and the tensors it is called on, and returns what it
            calls: how often, which layer, and on which tensors.
    """
    _held[layer_type] = calls


def multiplies_nothing(*layer_types: type) -> None:
    """Says that layers have no multiply-accumulates."""
    for layer_type in layer_types:
        holds(layer_type, lambda layer, inputs: [])


def held_calls(layer_type: type) -> HeldCalls | None:
    """Returns what layers of exactly this class hold; `None` if that is not known."""
    return _held.get(layer_type)


# Parts of layers: their kernels are told by the layer that holds them, so that they
# have no row of their own in the table.
PARTS = {
    cell: LayerRule(cell, macs=layer_macs.cell)
    for cell in (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
}


def _without_time(layer: Any, inputs: list) -> tuple[int, Any]:
    sequence = inputs[0]
    shape = (sequence.shape[0], *sequence.shape[2:])
    return sequence.shape[1] or 1, keras.KerasTensor(shape, sequence.dtype)


def _each_step(layer: Any, inputs: list) -> list[HeldCall]:
    steps, step = _without_time(layer, inputs)
    return [(steps, layer.layer, [step])]


def _both_directions(layer: Any, inputs: list) -> list[HeldCall]:
    return [(1, one, inputs[:1]) for one in (layer.forward_layer, layer.backward_layer)]


def _cell_at_each_step(layer: Any, inputs: list) -> list[HeldCall]:
    steps, step = _without_time(layer, inputs)
    return [(steps, layer.cell, [step, _states(layer.cell, step)])]


def _states(cell: Any, step: Any) -> list:
    """Returns the states of a cell, as tensors without values."""
    sizes = cell.state_size
    sizes = sizes if isinstance(sizes, list | tuple) else [sizes]

    def state(size: Any) -> Any:
        if isinstance(size, list):
            return [state(one) for one in size]
        shape = size if isinstance(size, tuple) else (size,)
        return keras.KerasTensor((step.shape[0], *shape), step.dtype)

    return [state(size) for size in sizes]


def _each_cell(layer: Any, inputs: list) -> list[HeldCall]:
    calls, step = [], inputs[0]
    for cell in layer.cells:
        calls.append((1, cell, [step, _states(cell, step)]))
        size = getattr(cell, "output_size", None)
        if size is None:
            size = cell.state_size
        size = size[0] if isinstance(size, list | tuple) else size
        step = keras.KerasTensor((step.shape[0], size), step.dtype)
    return calls


holds(layers.SpectralNormalization)
holds(layers.TimeDistributed, _each_step)
holds(layers.Bidirectional, _both_directions)
holds(layers.RNN, _cell_at_each_step)
holds(layers.StackedRNNCells, _each_cell)

# Also layers that do something in training only.
_NO_PRODUCTS = """
Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D
Add AlphaDropout AugMix AutoContrast Average AveragePooling1D AveragePooling2D
AveragePooling3D BatchNormalization CategoryEncoding CenterCrop Concatenate
ContrastLimitedAdaptiveHistogramEqualization Cropping1D Cropping2D Cropping3D CutMix
Discretization Dropout ELU Equalization Flatten GaussianDropout GaussianNoise
GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization
HashedCrossing Hashing Identity InputLayer IntegerLookup LayerNormalization LeakyReLU
Masking MaxNumBoundingBoxes MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum MixUp
Multiply Normalization PReLU Permute RMSNormalization RandAugment RandomBrightness
RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale
RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU
RepeatVector Rescaling Reshape Resizing Softmax Solarization SpatialDropout1D
SpatialDropout2D SpatialDropout3D StringLookup Subtract TextVectorization
UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D
ZeroPadding3D
"""
multiplies_nothing(*(getattr(layers, name) for name in _NO_PRODUCTS.split()))
multiplies_nothing(HeldTensor, AttachedMask)
