"""Operations whose outputs are known without calling them."""

from __future__ import annotations

from typing import Any

import keras

from tfcompress.core.types import Structure

# Layers whose outputs have a shape and type that follow from those of their inputs, and
# from nothing else that a call could say.
_L = keras.layers
_predictable: set[type] = {
    *(_L.Activation, _L.Add, _L.Average, _L.AveragePooling1D, _L.AveragePooling2D),
    *(_L.BatchNormalization, _L.Concatenate, _L.Conv1D, _L.Conv1DTranspose),
    *(_L.Conv2D, _L.Conv2DTranspose, _L.Conv3D, _L.Dense, _L.DepthwiseConv1D),
    *(_L.DepthwiseConv2D, _L.Dropout, _L.ELU, _L.Flatten, _L.GlobalAveragePooling1D),
    *(_L.GlobalAveragePooling2D, _L.GlobalMaxPooling1D, _L.GlobalMaxPooling2D),
    *(_L.LayerNormalization, _L.LeakyReLU, _L.MaxPooling1D, _L.MaxPooling2D),
    *(_L.Maximum, _L.Minimum, _L.Multiply, _L.PReLU, _L.Permute, _L.ReLU),
    *(_L.RepeatVector, _L.Rescaling, _L.Reshape, _L.SeparableConv1D),
    *(_L.SeparableConv2D, _L.Softmax, _L.Subtract, _L.UpSampling1D, _L.UpSampling2D),
    *(_L.ZeroPadding1D, _L.ZeroPadding2D),
}


def predictable(layer: type) -> type:
    """Says of a layer class that its outputs follow from its inputs; a decorator.

    `trace` then takes their shape and type from the model, and copies no such layer.
    """
    _predictable.add(layer)
    return layer


class _StandIn(keras.Operation):
    """Puts out what the operation in whose place it stands once did."""

    made: Any = None

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return keras.tree.map_structure(
            lambda t: keras.KerasTensor(t.shape, t.dtype, sparse=t.sparse), self.made
        )


def stand_in(operation: Any, args: tuple, kwargs: dict) -> _StandIn | None:
    """Returns what is called instead of an operation whose outputs are known.

    Copies of layers have weights, and making these is most of the work of a trace.
    """
    is_layer = isinstance(operation, keras.Layer)
    given = [leaf for leaf in keras.tree.flatten((args, kwargs)) if leaf is not None]
    if is_layer:
        alike = type(operation) in _predictable and operation.built
        if not alike or not all(isinstance(x, keras.KerasTensor | int) for x in given):
            return None
    try:
        known, made = operation.input, operation.output
    except (AttributeError, ValueError):  # it was never called
        return None
    tensors = [x for x in given if isinstance(x, keras.KerasTensor)]
    if _specs(known) != _specs(tensors):
        return None
    # Its policy may have changed since.
    if is_layer and {t.dtype for t in keras.tree.flatten(made)} != {
        operation.compute_dtype
    }:
        return None
    known_call = _StandIn()  # it has a name of its own: each call has another
    known_call.made = made
    return known_call


def _specs(tensors: Structure) -> list[tuple]:
    return [
        (tuple(tensor.shape), tensor.dtype, tensor.sparse)
        for tensor in keras.tree.flatten(tensors)
    ]
