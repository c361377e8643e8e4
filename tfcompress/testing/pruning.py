"""The contracts of pruning: criteria and patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from tfcompress.pruning.callback import PruneWeights
from tfcompress.pruning.criteria import NEEDS, GradientCriterion
from tfcompress.pruning.sites import select_sites
from tfcompress.schedules import ConstantSparsity
from tfcompress.testing.tools import KERNELS, compiled, dtype_of, require, round_trip

# Layers that have such kernels.
_LAYERS = (
    ((24,), lambda: layers.Dense(16)),
    ((8, 8, 8), lambda: layers.Conv2D(16, 3)),
    ((8, 8, 8), lambda: layers.DepthwiseConv2D(3)),
    ((5,), lambda: layers.Dense(7)),
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
    round_trip(criterion)
    name = f"{type(criterion).__name__}.score()"
    require(
        criterion.needs in NEEDS,
        f"{type(criterion).__name__}.needs must be one of {', '.join(NEEDS)}, got "
        f"{criterion.needs!r}",
    )
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
    round_trip(pattern)
    rng = np.random.default_rng(0)
    for shape, kernel in KERNELS.items():
        if pattern.misfit(shape, kernel):
            continue
        scores = rng.uniform(0.1, 1.0, shape).astype("float32")
        units = pattern.reduce(keras.ops.convert_to_tensor(scores), kernel)
        values = keras.ops.convert_to_numpy(units)
        require(
            np.isfinite(values[values > -np.inf]).all() and values.size > 0,
            f"{name}.reduce() of finite scores of shape {shape} is not finite",
        )
        for kept in (True, False):
            mask = pattern.expand(
                keras.ops.full(units.shape, kept, "bool"), shape, kernel
            )
            require(
                tuple(mask.shape) == shape and dtype_of(mask) == "bool",
                f"{name}.expand() must return a bool mask of shape {shape}, got "
                f"{dtype_of(mask)} {tuple(mask.shape)}",
            )
            found = keras.ops.convert_to_numpy(mask)
            require(
                (found == kept).all(),
                f"{name}.expand() of units that are all {'kept' if kept else 'dropped'}"
                f" leaves {int((found != kept).sum())} of {found.size} weights "
                f"{'dropped' if kept else 'kept'}",
            )
        require(
            np.array_equal(compiled(pattern.reduce)(scores, kernel), units),
            f"{name}.reduce() compiled differs from eager",
        )
    _check_pruning(pattern=pattern, tolerance=tolerance)


def _check_scores(score: Callable[[Any], Any], name: str, shape: tuple) -> None:
    """Checks a function from weights to scores: shape, type, no NaN, compiled."""
    weights = np.random.default_rng(0).normal(size=shape).astype("float32")
    weights.flat[::3] = 0.0
    scores = score(keras.ops.convert_to_tensor(weights))
    require(
        tuple(scores.shape) == shape and "float" in dtype_of(scores),
        f"{name} of weights of shape {shape} must be floats of that shape, got "
        f"{dtype_of(scores)} {tuple(scores.shape)}",
    )
    eager = keras.ops.convert_to_numpy(scores)
    require(not np.isnan(eager).any(), f"{name} has NaN where weights are zero")
    try:
        inside = compiled(score)(weights)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise AssertionError(f"{name} cannot be compiled: {reason}") from error
    require(
        np.allclose(inside, eager, rtol=1e-5, atol=1e-7),
        f"{name} compiled differs from eager by {np.max(np.abs(inside - eager)):.3g}",
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
    # Each kernel for itself: ranked all together, one may have more zeros than another.
    prune = PruneWeights(plan, scope="layer", filters="conv|dense$", **options)
    model.fit(x, y, batch_size=4, callbacks=[prune], verbose=0)
    for layer in (model.get_layer("conv"), model.get_layer("dense")):
        weights = keras.ops.convert_to_numpy(layer.kernel)
        sparsity = float(np.mean(weights == 0))
        require(
            abs(sparsity - 0.5) <= tolerance + 1 / weights.size,
            f"a kernel of shape {weights.shape} pruned to 0.5 with "
            f"{type(subject).__name__} has sparsity {sparsity:.4f}",
        )
