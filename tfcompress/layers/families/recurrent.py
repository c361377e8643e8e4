"""Recurrent layers, their cells, and layers that run another at each step."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers

from tfcompress.layers.kernels import Kernel
from tfcompress.layers.rules import HeldCall, fill
from tfcompress.layers.sizes import Shape, size, spatial


def cell(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """One step of an LSTM, GRU or SimpleRNN."""
    return size(layer.kernel) + size(layer.recurrent_kernel)


def recurrent(layer: Any, inputs: list[Shape], output: Shape) -> int:
    return cell(layer.cell, inputs, output) * inputs[0][0]


def convolutional_recurrent(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """ConvLSTM: both kernels run over the positions of a step's output."""
    rank = len(inputs[0]) - 1
    positions = math.prod(spatial(layer, output[-rank:]))
    return cell(layer.cell, inputs, output) * positions * inputs[0][0]


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


_names = ("cell.kernel", "cell.recurrent_kernel")
for _layer, _gates in ((layers.LSTM, 4), (layers.GRU, 3), (layers.SimpleRNN, 1)):
    fill(
        (_layer,),
        flow="float",
        kernels=tuple(Kernel(name, gates=_gates) for name in _names),
        macs=recurrent,
        family="recurrent",
    )
fill(
    (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D),
    flow="float",
    macs=convolutional_recurrent,
    family="recurrent",
)
# Their kernels are told by the layer that holds them.
fill((layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell), macs=cell)
fill((layers.StackedRNNCells,), holds=_each_cell)
fill((layers.RNN,), flow="float", holds=_cell_at_each_step, family="recurrent")
fill((layers.Bidirectional,), flow="float", holds=_both_directions)
fill((layers.TimeDistributed,), flow="float", holds=_each_step)
