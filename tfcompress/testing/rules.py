"""The contract of layer rules."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfcompress.layers import LayerRule, register_layer_rule, rule_of
from tfcompress.testing.tools import require


def check_layer_rule(rule: LayerRule, layer: Any, input_shape: tuple) -> None:
    """Checks that `rule` tells the truth about `layer`.

    When to use: before `register_layer_rule` for a layer of your own.

    Args:
        rule: the rule; it is registered if it is not.
        layer: an unbuilt layer of that type.
        input_shape: the shape of one sample that the layer takes.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    >>> from tfcompress import LayerRule
    >>> rule = LayerRule(keras.layers.ReLU, "activate")
    >>> check_layer_rule(rule, keras.layers.ReLU(), (4,))
    """
    name, kind = rule.name, rule.layer_type
    require(
        isinstance(kind, type) and isinstance(layer, kind),
        f"the rule is for {name}, the layer is a {type(layer).__name__}",
    )
    if rule_of(layer) != rule:
        register_layer_rule(rule)
    inputs = keras.Input(input_shape)
    model = keras.Model(inputs, layer(inputs))
    for kernel in rule.kernels:
        variable = kernel.find(layer)
        require(
            isinstance(variable, keras.Variable),
            f"{name} has no variable '{kernel.attribute}'",
        )
        rank = len(variable.shape)
        require(
            all(-rank <= axis < rank for axis in kernel.output_axes),
            f"output_axes {kernel.output_axes} of {name}.{kernel.attribute} lie "
            f"outside its {rank} dimensions",
        )
    if callable(rule.macs):
        macs = rule.macs(layer, [tuple(input_shape)], tuple(model.output.shape[1:]))
        require(
            isinstance(macs, int) and macs >= 0,
            f"the macs of {name} must be an int >= 0, got {macs!r}",
        )
    _check_flow(rule, model, input_shape)


def _check_flow(rule: LayerRule, model: Any, input_shape: tuple) -> None:
    name, flow = rule.name, rule.flow
    require(
        flow != "compute" or rule.kernels,
        f"{name} has flow 'compute' and no kernels; name them or use 'arithmetic'",
    )
    x = np.random.default_rng(0).normal(size=(4, *input_shape)).astype("float32")
    y = keras.ops.convert_to_numpy(model(x, training=False))
    if flow == "select":
        require(
            np.isin(y, np.append(x, np.float32(0))).all(),
            f"{name} has flow 'select' but makes numbers that its input does not have",
        )
    elif flow == "average":
        require(
            y.min() >= min(x.min(), 0) - 1e-5 and y.max() <= max(x.max(), 0) + 1e-5,
            f"{name} has flow 'average' but leaves its input's range",
        )
    elif flow in ("compute", "fold"):
        model.set_weights([np.ones_like(w) for w in model.get_weights()])
        parts = [model(v, training=False) for v in (x, -x, np.zeros_like(x))]
        up, down, zero = (keras.ops.convert_to_numpy(part) for part in parts)
        require(
            np.allclose(up + down, 2 * zero, rtol=1e-3, atol=1e-3),
            f"{name} has flow '{flow}' but is not linear in its input; its "
            "activation belongs in a layer of its own for this check",
        )
