"""The contract of weight quantizers."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.testing.tools import KERNELS, compiled, dtype_of, require, round_trip


def check_quantizer(quantizer: Any) -> None:
    """Checks that `quantizer` rounds to few values, keeps zeros and can be trained.

    When to use: in the tests of a weight `Quantizer` of your own.

    Args:
        quantizer: an instance. If it has `num_bits`, it must round to at most
            `2 ** num_bits` values a channel.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    >>> from tfcompress import UniformQuantizer
    >>> check_quantizer(UniformQuantizer(4))
    """
    name = type(quantizer).__name__
    round_trip(quantizer)
    rng = np.random.default_rng(0)
    for shape, kernel in KERNELS.items():
        axes = kernel.reduction_axes(len(shape))
        weights = rng.normal(size=shape).astype("float32")
        weights.flat[::3] = 0.0
        states = quantizer.states(ops.convert_to_tensor(weights), axes)
        given = functools.partial(quantizer, **states)
        rounded = given(ops.convert_to_tensor(weights), axes)
        require(
            tuple(rounded.shape) == shape and dtype_of(rounded) == "float32",
            f"{name} of float32 weights of shape {shape} must have their shape and "
            f"type, got {dtype_of(rounded)} {tuple(rounded.shape)}",
        )
        values = ops.convert_to_numpy(rounded)
        require(np.isfinite(values).all(), f"{name} gives NaN or infinity")
        lost = int(np.count_nonzero(values[weights == 0]))
        require(not lost, f"{name} moves {lost} zeros: pruned weights would come back")
        again = ops.convert_to_numpy(given(rounded, axes))
        require(
            np.allclose(again, values, rtol=1e-5, atol=1e-6),
            f"{name} rounds what is rounded already, by up to "
            f"{np.max(np.abs(again - values)):.3g}",
        )
        _check_number_of_values(quantizer, values, axes)
        inside = ops.convert_to_numpy(compiled(given)(weights, axes))
        require(
            np.allclose(inside, values, rtol=1e-5, atol=1e-6),
            f"{name} compiled differs from eager by "
            f"{np.max(np.abs(inside - values)):.3g}",
        )
    _check_training(quantizer)


def _check_number_of_values(quantizer: Any, values: Any, axes: tuple) -> None:
    bits = getattr(quantizer, "num_bits", None)
    if bits is None:
        return
    channels = np.moveaxis(values, axes, range(len(axes)))
    channels = channels.reshape(-1, int(np.prod(channels.shape[len(axes) :])))
    most = max(len(np.unique(channel.round(6))) for channel in channels.T)
    require(
        most <= 2**bits,
        f"{type(quantizer).__name__} with num_bits={bits} gives a channel {most} "
        f"different values, more than {2**bits}",
    )


def _check_training(quantizer: Any) -> None:
    """Checks that weights move when a model is trained through the quantizer."""

    class Rounded(keras.layers.Dense):
        def call(self, inputs: Any) -> Any:
            return ops.matmul(inputs, quantizer(self.kernel, (0,)))

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), Rounded(4, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()[0]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)), rng.normal(size=(64, 4))
    try:
        model.fit(x, y, batch_size=16, verbose=0)
    except ValueError as error:
        # What Keras says where nothing at all has a gradient.
        if "No gradients" not in str(error):
            raise
    (after,) = model.get_weights()
    still = float(np.mean(after == before))
    require(
        np.isfinite(after).all() and still < 0.5,
        f"{type(quantizer).__name__} lets no useful gradient through: {still:.0%} of "
        "the weights stay where they are; use ops.stop_gradient around the rounding",
    )
