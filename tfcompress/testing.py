"""Contracts: what any schedule, criterion, pattern or layer rule must do.

One suite for everyone's classes. A class of your own is ready when its check
passes; the same checks run over every class of tfcompress.

>>> from tfcompress import Magnitude, PolynomialSparsity
>>> check_schedule(PolynomialSparsity(0.0, 0.8))
>>> check_criterion(Magnitude(p=2))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.layer_rules import Kernel, LayerRule, register_layer_rule, rule_of
from tfcompress.pruning.callback import PruneWeights
from tfcompress.pruning.criteria import GradientCriterion
from tfcompress.pruning.sites import select_sites
from tfcompress.schedules import ConstantSparsity, FitSpan

__all__ = ["check_criterion", "check_layer_rule", "check_pattern", "check_schedule"]

_FIT = FitSpan(0, 199)
# Kernels of every rank that Keras' layers have, with odd and even sizes.
_SHAPES = {
    (24, 16): Kernel("kernel"),
    (3, 3, 8, 16): Kernel("kernel"),
    (3, 3, 8, 1): Kernel("kernel", (-2, -1), ()),
    (5, 7): Kernel("kernel"),
}
# Layers that have them.
_LAYERS = (
    ((24,), lambda: layers.Dense(16)),
    ((8, 8, 8), lambda: layers.Conv2D(16, 3)),
    ((8, 8, 8), lambda: layers.DepthwiseConv2D(3)),
    ((5,), lambda: layers.Dense(7)),
)


def check_schedule(schedule: Any) -> None:
    """Checks that `schedule` is a pure function of the step that fits in a graph.

    When to use: in the tests of a `Schedule` of your own.

    Args:
        schedule: an instance, its steps given in any way that fits in a fit of 200
            steps.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    >>> from tfcompress import ConstantSparsity
    >>> check_schedule(ConstantSparsity(0.5, begin_step=10))
    """
    name = type(schedule).__name__
    copy = _round_trip(schedule)
    config = schedule.get_config()
    resolved = schedule.resolve(_FIT)
    _require(
        schedule.get_config() == config and resolved is not schedule,
        f"{name}.resolve() must return a new schedule and leave this one alone",
    )
    steps = range(_FIT.first, _FIT.last + 1)
    values = [resolved(step) for step in steps]
    for step, value in zip(steps, values):
        _require(
            isinstance(value, float) and 0 <= value < 1,
            f"{name}({step}) must be a float in [0, 1), got {value!r}",
        )
    _require(
        values == [resolved(step) for step in steps],
        f"{name} must be a pure function of the step, but a second call differs",
    )
    for progress in (0.0, 0.37, 1.0):
        here, there = (float(one.value(progress)) for one in (schedule, copy))
        _require(
            here == there,
            f"{name} rebuilt from its config gives {there} at progress {progress} "
            f"instead of {here}; get_config must return every argument of __init__",
        )
    due = [resolved.is_due(step) for step in steps]
    _require(
        all(isinstance(flag, bool) for flag in due),
        f"{name}.is_due(int) must be a bool",
    )
    _require(any(due), f"{name} is never due in a fit of {_FIT.steps} steps")
    planned = set(resolved.update_steps(_FIT))
    late = sorted(step for step in planned if not due[step])
    _require(not late, f"{name}.update_steps() has steps that are not due: {late[:5]}")
    if schedule.grows:
        _require(
            values[-1] >= values[0] and values[-1] == max(values),
            f"{name}.grows is True, but its last value {values[-1]} is not its largest",
        )
    _check_schedule_in_a_graph(resolved, values, due)


def _check_schedule_in_a_graph(schedule: Any, values: list, due: list) -> None:
    name = type(schedule).__name__
    compiled = _compiled(lambda step: (schedule(step), schedule.is_due(step)))
    for step in range(0, len(values), 7):
        value, flag = compiled(np.int32(step))
        _require(
            tuple(value.shape) == () and "float" in _dtype(value),
            f"{name}(tensor) must be a float scalar, got {value.dtype} {value.shape}",
        )
        _require(
            abs(float(value) - values[step]) < 1e-6,
            f"{name} compiled gives {float(value)} at step {step}, eager "
            f"{values[step]}",
        )
        _require(
            _dtype(flag) == "bool" and bool(flag) == due[step],
            f"{name}.is_due compiled gives {flag} at step {step}, eager {due[step]}",
        )


def check_criterion(criterion: Any) -> None:
    """Checks that `criterion` scores every weight and prunes to what was asked.

    When to use: in the tests of a `Criterion` of your own.

    Args:
        criterion: an instance.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    >>> from tfcompress import Magnitude
    >>> check_criterion(Magnitude())
    """
    _round_trip(criterion)
    name = f"{type(criterion).__name__}.score()"
    rng = np.random.default_rng(0)
    for input_shape, make in _LAYERS:
        inputs = [keras.Input(input_shape), make(), layers.BatchNormalization()]
        site = select_sites(keras.Sequential(inputs))[0]
        built = criterion.for_site(site)
        shape = tuple(site.variable.shape)
        if isinstance(built, GradientCriterion):
            gradient = rng.normal(size=shape).astype("float32")
            built.observe(site.variable, keras.ops.convert_to_tensor(gradient))
        _check_scores(built.score, name, shape)
    _check_pruning(criterion=criterion)


def _check_scores(score: Callable[[Any], Any], name: str, shape: tuple) -> None:
    """Checks a function from weights to scores: shape, type, no NaN, compiled."""
    weights = np.random.default_rng(0).normal(size=shape).astype("float32")
    weights.flat[::3] = 0.0
    scores = score(keras.ops.convert_to_tensor(weights))
    _require(
        tuple(scores.shape) == shape and "float" in _dtype(scores),
        f"{name} of weights of shape {shape} must be floats of that shape, got "
        f"{_dtype(scores)} {tuple(scores.shape)}",
    )
    eager = keras.ops.convert_to_numpy(scores)
    _require(not np.isnan(eager).any(), f"{name} has NaN where weights are zero")
    try:
        compiled = _compiled(score)(weights)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise AssertionError(f"{name} cannot be compiled: {reason}") from error
    _require(
        np.allclose(compiled, eager, rtol=1e-5, atol=1e-7),
        f"{name} compiled differs from eager by {np.max(np.abs(compiled - eager)):.3g}",
    )


def check_pattern(pattern: Any, tolerance: float = 0.0) -> None:
    """Checks that `pattern` groups weights and ungroups masks consistently.

    When to use: in the tests of a `Pattern` of your own.

    Args:
        pattern: an instance.
        tolerance: how much the sparsity of a kernel may differ from what was asked,
            for patterns that round.

    Raises:
        AssertionError: naming the part of the contract that does not hold.

    Example:

    >>> from tfcompress import Unstructured
    >>> check_pattern(Unstructured())
    """
    name = type(pattern).__name__
    _round_trip(pattern)
    rng = np.random.default_rng(0)
    for shape, kernel in _SHAPES.items():
        if pattern.misfit(shape, kernel):
            continue
        scores = rng.uniform(0.1, 1.0, shape).astype("float32")
        units = pattern.reduce(keras.ops.convert_to_tensor(scores), kernel)
        values = keras.ops.convert_to_numpy(units)
        _require(
            np.isfinite(values[values > -np.inf]).all() and values.size > 0,
            f"{name}.reduce() of finite scores of shape {shape} is not finite",
        )
        for kept in (True, False):
            mask = pattern.expand(
                keras.ops.full(units.shape, kept, "bool"), shape, kernel
            )
            _require(
                tuple(mask.shape) == shape and _dtype(mask) == "bool",
                f"{name}.expand() must return a bool mask of shape {shape}, got "
                f"{_dtype(mask)} {tuple(mask.shape)}",
            )
            found = keras.ops.convert_to_numpy(mask)
            _require(
                (found == kept).all(),
                f"{name}.expand() of units that are all {'kept' if kept else 'dropped'}"
                f" leaves {int((found != kept).sum())} of {found.size} weights "
                f"{'dropped' if kept else 'kept'}",
            )
        _require(
            np.array_equal(_compiled(pattern.reduce)(scores, kernel), units),
            f"{name}.reduce() compiled differs from eager",
        )
    _check_pruning(pattern=pattern, tolerance=tolerance)


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
    name = rule.layer_type.__name__
    _require(
        isinstance(layer, rule.layer_type),
        f"the rule is for {name}, the layer is a {type(layer).__name__}",
    )
    if rule_of(layer) != rule:
        register_layer_rule(rule)
    inputs = keras.Input(input_shape)
    model = keras.Model(inputs, layer(inputs))
    for kernel in rule.kernels:
        variable = kernel.find(layer)
        _require(
            isinstance(variable, keras.Variable),
            f"{name} has no variable '{kernel.attribute}'",
        )
        rank = len(variable.shape)
        _require(
            all(-rank <= axis < rank for axis in kernel.output_axes),
            f"output_axes {kernel.output_axes} of {name}.{kernel.attribute} lie "
            f"outside its {rank} dimensions",
        )
    if rule.macs is not None:
        macs = rule.macs(layer, [tuple(input_shape)], tuple(model.output.shape[1:]))
        _require(
            isinstance(macs, int) and macs >= 0,
            f"the macs of {name} must be an int >= 0, got {macs!r}",
        )
    _check_flow(rule, model, input_shape)


def _check_flow(rule: LayerRule, model: Any, input_shape: tuple) -> None:
    name, flow = rule.layer_type.__name__, rule.flow
    _require(
        flow != "compute" or rule.kernels,
        f"{name} has flow 'compute' and no kernels; name them or use 'arithmetic'",
    )
    x = np.random.default_rng(0).normal(size=(4, *input_shape)).astype("float32")
    y = keras.ops.convert_to_numpy(model(x, training=False))
    if flow == "select":
        _require(
            np.isin(y, np.append(x, np.float32(0))).all(),
            f"{name} has flow 'select' but makes numbers that its input does not have",
        )
    elif flow == "average":
        _require(
            y.min() >= min(x.min(), 0) - 1e-5 and y.max() <= max(x.max(), 0) + 1e-5,
            f"{name} has flow 'average' but leaves its input's range",
        )
    elif flow in ("compute", "fold"):
        model.set_weights([np.ones_like(w) for w in model.get_weights()])
        parts = [model(v, training=False) for v in (x, -x, np.zeros_like(x))]
        up, down, zero = (keras.ops.convert_to_numpy(part) for part in parts)
        _require(
            np.allclose(up + down, 2 * zero, rtol=1e-3, atol=1e-3),
            f"{name} has flow '{flow}' but is not linear in its input; its "
            "activation belongs in a layer of its own for this check",
        )


def _check_pruning(tolerance: float = 0.0, **options: Any) -> None:
    """Checks that a fit with PruneWeights(**options) reaches its sparsity."""
    ((_, subject),) = options.items()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(16, 3, name="conv"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(16, name="dense"),
            layers.BatchNormalization(),
            layers.Dense(16),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8, 8, 4)), rng.normal(size=(32, 16))
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    plan = ConstantSparsity(0.5, 2, frequency=1)
    prune = PruneWeights(plan, filters="conv|dense$", **options)
    model.fit(x, y, batch_size=4, callbacks=[prune], verbose=0)
    for layer in (model.get_layer("conv"), model.get_layer("dense")):
        weights = keras.ops.convert_to_numpy(layer.kernel)
        sparsity = float(np.mean(weights == 0))
        _require(
            abs(sparsity - 0.5) <= tolerance + 1 / weights.size,
            f"a kernel of shape {weights.shape} pruned to 0.5 with "
            f"{type(subject).__name__} has sparsity {sparsity:.4f}",
        )


def _round_trip(thing: Any) -> Any:
    """Returns `thing` rebuilt through Keras' serialization."""
    name = type(thing).__name__
    try:
        config = keras.saving.serialize_keras_object(thing)
        copy = keras.saving.deserialize_keras_object(config)
    except Exception as error:
        raise AssertionError(
            f"{name} cannot be rebuilt from its config ({error}); register it with "
            "keras.saving.register_keras_serializable and return every argument of "
            "__init__ from get_config"
        ) from error
    _require(
        type(copy) is type(thing) and copy.get_config() == thing.get_config(),
        f"{name} rebuilt from its config differs: {copy.get_config()} instead of "
        f"{thing.get_config()}",
    )
    return copy


def _compiled(function: Callable) -> Callable:
    import tensorflow as tf

    # As in the step of `fit`, where Keras turns AutoGraph off.
    return tf.function(function, autograph=False)


def _dtype(tensor: Any) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)
