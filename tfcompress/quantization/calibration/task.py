"""What is handed to whoever rounds the kernels of a model that is calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tfcompress.core.data import Inputs
from tfcompress.core.graph import Graph
from tfcompress.quantization.wrapper import QuantizedLayer


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A model whose ranges are set and whose kernels are to be rounded.

    Attributes:
        model: the quantization-aware model.
        graph: its traced graph.
        data: typical inputs.
        means: of layers whose biases may move, the mean of every output channel in
            float, for each of their calls.
        progress: to be called as often as `Rounding.units` says.
    """

    model: keras.Model
    graph: Graph
    data: Inputs
    means: dict[QuantizedLayer, np.ndarray]
    progress: Callable[[], None] = lambda: None
