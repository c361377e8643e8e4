"""QuantizedLayer: any layer, run with rounded kernels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from tfcompress.core.kernel_values import shares_values
from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.layers import Kernel, fill, kernels_of, wrapped
from tfcompress.quantization.quantizers import QUANTIZERS, Quantizer


def kernels_with_one_scale(layer: keras.Layer) -> tuple[str, ...]:
    """Returns the kernels (by attribute) whose channels share a few values."""
    return tuple(
        kernel.attribute
        for kernel, variable in kernels_of(layer)
        if shares_values(ops.convert_to_numpy(variable), kernel.output_axes)
    )


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class QuantizedLayer(keras.layers.Wrapper):
    """Runs a layer with its kernels rounded; training changes the unrounded ones.

    When to use: `quantize_aware` wraps every layer that has a kernel. The layer is
    called as it is, with other values in place of its kernels
    (`keras.StatelessScope`), so there is no code per layer type.

    Args:
        layer: the layer; its rule in the table tells where its kernels are.
        quantizer: how kernels are rounded; instance, config or name.
        one_scale: the kernels (by attribute) that get one scale for all channels, so
            that weights which share a value share an integer; `"auto"` finds the
            clustered ones among the first weights that are set, and None never has
            any: what scales each channel is folded into this layer.
        frozen: whether the kernels are rounded already, as in a finalized model; then
            it runs the layer as it is, and tells exporters that kernels are integers.

    Example:

    >>> layer = QuantizedLayer(keras.layers.Dense(2, name="head"), "uniform")
    >>> layer(ops.ones((1, 4))).shape, layer.name
    (TensorShape([1, 2]), 'head')
    """

    def __init__(
        self,
        layer: keras.Layer,
        quantizer: Quantizer | dict | str,
        one_scale: Sequence[str] | str | None = (),
        frozen: bool = False,
        **kwargs: Any,
    ):
        kwargs.setdefault("name", layer.name)
        super().__init__(layer, **kwargs)
        self.quantizer = QUANTIZERS.get(quantizer)
        self.supports_masking = layer.supports_masking
        if not (one_scale is None or isinstance(one_scale, str)):
            one_scale = tuple(one_scale)
        self.one_scale, self.frozen = one_scale, frozen

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self.states = [
            {
                name: self.add_weight(
                    shape=value.shape,
                    initializer=keras.initializers.Constant(value),
                    name=f"{kernel.attribute}_{name}",
                )
                for name, value in self._first_states(kernel, variable)
            }
            for kernel, variable in self.kernels()
            if not self.frozen
        ]

    def parts(self) -> list[tuple[Any, Kernel, Any]]:
        """Returns what is rounded: a layer, its kernel and the kernel's variable."""
        return [(self.layer, *found) for found in kernels_of(self.layer)]

    def kernels(self) -> list[tuple[Kernel, Any]]:
        """Returns the kernels that are rounded, with their variables."""
        return [(kernel, variable) for _, kernel, variable in self.parts()]

    def call(self, inputs: Any, **kwargs: Any) -> Any:
        return self.run(inputs, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer with rounded kernels."""
        if self.frozen:
            return self.layer(*args, **kwargs)
        rounded = self.rounded_kernels()
        # Variables not named here would be read past a StatelessScope around us.
        mapping = [
            (v, rounded.get(id(v), ops.convert_to_tensor(v)))
            for v in self.layer.variables
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = self.layer(*args, **kwargs)
        for variable in self.layer.non_trainable_variables:
            variable.assign(scope.get_current_value(variable))
        return outputs

    def rounded_kernels(self) -> dict[int, Any]:
        """Returns the rounded value of each kernel by the `id` of its variable."""
        rounded = {}
        for (kernel, variable), states in zip(self.kernels(), self.states):
            rank = len(variable.shape)
            axes, present = kernel.reduction_axes(rank), dict(states)
            if self.has_one_scale(kernel):
                axes = tuple(range(rank))
                present = {n: ops.mean(s, keepdims=True) for n, s in states.items()}
            rounded[id(variable)] = self.quantizer(variable, axes, **present)
        return rounded

    def has_one_scale(self, kernel: Kernel) -> bool:
        """Returns whether all channels of a kernel have the same scale."""
        known = self.one_scale
        return isinstance(known, tuple) and kernel.attribute in known

    def share_scales(self, variables: Collection[int]) -> bool:
        """Gives kernels whose weights come to share values one scale each.

        Args:
            variables: the `id`s of the kernels' variables.

        Returns:
            Whether anything changed, and the training step is to be traced anew.
        """
        if self.one_scale is None:
            return False
        named = {k.attribute for k, v in self.kernels() if id(v) in variables}
        before = self.one_scale if isinstance(self.one_scale, tuple) else ()
        self.one_scale = tuple(sorted({*before, *named}))
        return self.one_scale != before

    def set_weights(self, weights: list) -> None:
        """Sets all weights, or the layer's alone and lets states start from them."""
        if len(weights) != len(self.layer.weights):
            super().set_weights(weights)
            return
        self.layer.set_weights(weights)
        if self.one_scale == "auto":
            self.one_scale = kernels_with_one_scale(self.layer)
        for (kernel, variable), states in zip(self.kernels(), self.states):
            for name, value in self._first_states(kernel, variable):
                states[name].assign(value)

    def _first_states(self, kernel: Kernel, variable: Any) -> Iterator[tuple[str, Any]]:
        axes = kernel.reduction_axes(len(variable.shape))
        values = ops.convert_to_tensor(variable)
        for name, value in self.quantizer.states(values, axes).items():
            yield name, ops.convert_to_numpy(value)

    def rounded_weights(self) -> list:
        """Returns the layer's weights as arrays, kernels rounded."""
        rounded = self.rounded_kernels()
        return [
            ops.convert_to_numpy(rounded.get(id(v), ops.convert_to_tensor(v)))
            for v in self.layer.weights
        ]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "quantizer": keras.saving.serialize_keras_object(self.quantizer),
            "one_scale": self.one_scale,
            "frozen": self.frozen,
        }


fill((QuantizedLayer,), holds=wrapped)
