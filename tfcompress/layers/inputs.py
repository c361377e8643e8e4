"""What flows into a layer, as rows that its kernel is multiplied with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.samples import untouched


class _Enough(BaseException):
    """Ends a forward pass; no error, and so none that Keras would decorate."""


class Recorder:
    """Shows the inputs of one layer while a model runs.

    Args:
        layer: the layer.
        show: called with the inputs of each call.
        calls: after so many calls the model's forward pass is cut short; `None`: it
            runs to its end.
    """

    def __init__(
        self,
        layer: keras.Layer,
        show: Callable[[Any], None],
        calls: int | None = None,
    ):
        self.layer, self.show, self.calls = layer, show, calls
        self.seen = 0

    def __enter__(self) -> Recorder:
        own = self.layer.call

        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            del self.layer.call  # for those who run the layer on what they are shown
            try:
                self.show(inputs)
            finally:
                self.layer.call = call
            self.seen += 1
            if self.seen == self.calls:
                raise _Enough
            return own(inputs, *args, **kwargs)

        self.layer.call = call
        return self

    def __exit__(self, *exception: Any) -> None:
        del self.layer.call

    def run(self, model: keras.Model, batch: Any) -> None:
        """Runs the model on one batch, as far as needed."""
        self.seen = 0
        try:
            with untouched(model):
                model(batch, training=False)
        except _Enough:
            return


def reason_against(layer: keras.Layer) -> str | None:
    """Returns why a layer's kernel is not simply multiplied with rows, or `None`."""
    if isinstance(layer, layers.Dense):
        return None
    if isinstance(layer, layers.EinsumDense):
        inputs, kernel, outputs = _terms(layer)
        if set(inputs) & set(kernel) & set(outputs):
            return "their equation multiplies a different kernel for each position"
        return None
    if type(layer) in (layers.Conv1D, layers.Conv2D):
        if layer.groups > 1:
            return "their convolution has groups"
        if layer.data_format != "channels_last":
            return "their channels come first"
        if layer.padding == "causal":
            return "their padding is causal"
        return None
    return "least squares knows Dense, Conv1D, Conv2D and EinsumDense only"


def rows(layer: keras.Layer, inputs: Any) -> np.ndarray:
    """Returns the inputs as (n, rows of the kernel matrix), float32.

    A convolution's rows are its unfolded patches, in the order of the kernel.
    """
    inputs = ops.cast(ops.convert_to_tensor(inputs), "float32")
    if isinstance(layer, layers.EinsumDense):
        terms, kernel, outputs = _terms(layer, len(inputs.shape))
        summed = [axis for axis in kernel if axis not in outputs]
        order = [axis for axis in terms if axis not in summed] + summed
        inputs = ops.transpose(inputs, [terms.index(axis) for axis in order])
        size = int(np.prod(inputs.shape[len(order) - len(summed) :]))
        return ops.convert_to_numpy(ops.reshape(inputs, (-1, size)))
    if not isinstance(layer, layers.Dense):
        window, strides = layer.kernel_size, layer.strides
        dilation = layer.dilation_rate
        if isinstance(layer, layers.Conv1D):
            inputs = ops.expand_dims(inputs, 1)
            window, strides, dilation = (1, *window), (1, *strides), (1, *dilation)
        inputs = ops.image.extract_patches(
            inputs,
            size=window,
            strides=strides,
            dilation_rate=dilation,
            padding=layer.padding,
            data_format="channels_last",
        )
    return ops.convert_to_numpy(ops.reshape(inputs, (-1, inputs.shape[-1])))


def _terms(layer: Any, rank: int | None = None) -> tuple[str, str, str]:
    """Returns the axes of inputs, kernel and outputs; "..." becomes letters."""
    left, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    if "..." in inputs:
        named = len(inputs) - 3
        free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in layer.equation]
        rest = "".join(free[: (rank or named) - named])
        inputs, outputs = inputs.replace("...", rest), outputs.replace("...", rest)
    return inputs, kernel, outputs
