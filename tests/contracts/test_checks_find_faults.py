"""Each check fails on a class that breaks its contract, and says how."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress import (
    Criterion,
    LayerRule,
    Pattern,
    Quantizer,
    Schedule,
    UniformQuantizer,
)
from tfcompress.layers import Kernel
from tfcompress.testing import (
    check_criterion,
    check_layer_rule,
    check_pattern,
    check_quantizer,
    check_schedule,
)

registered = keras.saving.register_keras_serializable(package="contract_tests")


@registered
class Linear(Schedule):
    """Right: the base of the wrong ones."""

    def value(self, progress):
        return 0.5 * progress


@registered
class TooLarge(Linear):
    def value(self, progress):
        return 2.0 * progress


@registered
class Forgetful(Linear):
    def __init__(self, height=0.5, **kwargs):
        super().__init__(**kwargs)
        self._height = height

    def value(self, progress):
        return self._height * progress


class Unregistered(Linear):
    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)


@registered
class Moody(Linear):
    """Not a pure function of the step."""

    calls = itertools.count()

    def __call__(self, step):
        if isinstance(step, int):
            return (next(self.calls) % 7) / 10
        return super().__call__(step)


@registered
class Shrinking(Linear):
    def value(self, progress):
        return 0.5 - 0.5 * progress


@registered
class NeverDue(Linear):
    def is_due(self, step):
        return False if isinstance(step, int) else super().is_due(step)


@registered
class EagerOnly(Linear):
    def __call__(self, step):
        if isinstance(step, int):
            return super().__call__(step)
        return super().__call__(step) * 0.5


@registered
class InPlace(Linear):
    def resolve(self, span):
        self.begin_step, self.end_step = span.first, span.last
        return self


def test_a_right_schedule_passes():
    assert check_schedule(Linear()) is None


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (TooLarge(), r"TooLarge\(\d+\) must be a float in \[0, 1\), got 1"),
        (
            Forgetful(0.7),
            r"Forgetful rebuilt from its config gives 0\.185\d* at progress 0\.37",
        ),
        (Unregistered((3,)), "Unregistered cannot be rebuilt from its config"),
        (Moody(), "Moody must be a pure function of the step"),
        (Shrinking(), r"its last value 0\.0 is not its largest"),
        (NeverDue(), "NeverDue is never due in a fit of 200 steps"),
        (EagerOnly(), r"EagerOnly compiled gives 0\.\d+ at step 7, eager"),
        (InPlace(), r"InPlace.resolve\(\) must return a new schedule"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_schedule_is_found(schedule, message):
    with pytest.raises(AssertionError, match=message):
        check_schedule(schedule)


@registered
class Ones(Criterion):
    def score(self, weights):
        return ops.ones_like(weights) * ops.abs(weights)


@registered
class OnePerChannel(Criterion):
    def score(self, weights):
        return ops.sum(ops.abs(weights), axis=-1)


@registered
class Divides(Criterion):
    def score(self, weights):
        return weights / ops.abs(weights)


@registered
class InNumPy(Criterion):
    def score(self, weights):
        return ops.convert_to_tensor(np.abs(weights.numpy()))


@registered
class Integers(Criterion):
    def score(self, weights):
        return ops.cast(ops.abs(weights) * 100, "int32")


def test_a_right_criterion_passes():
    assert check_criterion(Ones()) is None


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (OnePerChannel(), r"of weights of shape \(24, 16\).*got float32 \(24,\)"),
        (Divides(), "has NaN where weights are zero"),
        (InNumPy(), r"InNumPy.score\(\) cannot be compiled"),
        (Integers(), r"must be floats of that shape, got int32 \(24, 16\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_criterion_is_found(criterion, message):
    with pytest.raises(AssertionError, match=message):
        check_criterion(criterion)


class ByRow(Pattern):
    """Right: whole rows of the last axis; the base of the wrong ones."""

    def reduce(self, scores, kernel):
        return ops.mean(scores, axis=-1, keepdims=True)

    def expand(self, mask, shape, kernel):
        return ops.broadcast_to(mask, shape)


@registered
class Rows(ByRow):
    pass


@registered
class Narrow(ByRow):
    def expand(self, mask, shape, kernel):
        return mask


@registered
class Numbers(ByRow):
    def expand(self, mask, shape, kernel):
        return ops.cast(super().expand(mask, shape, kernel), "float32")


@registered
class KeepsFirst(ByRow):
    def expand(self, mask, shape, kernel):
        first = ops.arange(shape[-1]) == 0
        return ops.logical_or(super().expand(mask, shape, kernel), first)


@registered
class OddOnes(ByRow):
    """Drops a row's odd weights only, so that the sparsity is missed."""

    def expand(self, mask, shape, kernel):
        full = super().expand(mask, shape, kernel)
        if ops.is_tensor(mask) and mask.shape[0] in (3, 24, 5, 576):
            some = ops.logical_and(ops.any(full), ops.logical_not(ops.all(full)))
            even = ops.arange(shape[-1]) % 2 == 0
            full = ops.where(some, ops.logical_or(full, even), full)
        return full


def test_a_right_pattern_passes():
    assert check_pattern(Rows(), tolerance=0.05) is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (Narrow(), r"bool mask of shape \(24, 16\), got bool \(24, 1\)"),
        (Numbers(), r"bool mask of shape \(24, 16\), got float32"),
        (KeepsFirst(), r"all dropped leaves 24 of 384 weights kept"),
        (OddOnes(), r"pruned to 0.5 with OddOnes has sparsity 0\.2"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_pattern_is_found(pattern, message):
    with pytest.raises(AssertionError, match=message):
        check_pattern(pattern, tolerance=0.05)


class Doubling(layers.Layer):
    """y = 2 x + kernel."""

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1],), name="table")

    def call(self, x):
        return 2.0 * x + self.table


class Squaring(Doubling):
    def call(self, x):
        return x * x + self.table


TABLE = (Kernel("table"),)


@pytest.mark.parametrize(
    ("rule", "layer", "message"),
    [
        (LayerRule(Doubling), layers.Dense(2), "rule is for Doubling.*is a Dense"),
        (
            LayerRule(Doubling, "compute", (Kernel("kernel"),)),
            Doubling(),
            "Doubling has no variable 'kernel'",
        ),
        (
            LayerRule(Doubling, "compute", (Kernel("table", (-2,)),)),
            Doubling(),
            r"output_axes \(-2,\) of Doubling.table lie outside its 1 dimensions",
        ),
        (LayerRule(Doubling, "compute"), Doubling(), "flow 'compute' and no kernels"),
        (LayerRule(Doubling, "select", TABLE), Doubling(), "makes numbers that its"),
        (LayerRule(Doubling, "average", TABLE), Doubling(), "leaves its input's range"),
        (LayerRule(Squaring, "compute", TABLE), Squaring(), "is not linear in its"),
        (
            LayerRule(Doubling, "compute", TABLE, macs=lambda layer, i, o: 1.5),
            Doubling(),
            "macs of Doubling must be an int >= 0, got 1.5",
        ),
    ],
)
def test_a_wrong_rule_is_found(rule, layer, message):
    with pytest.raises(AssertionError, match=message):
        check_layer_rule(rule, layer, (6,))


def test_a_right_rule_passes():
    rule = LayerRule(Doubling, "compute", TABLE, macs=lambda layer, i, o: 6)
    assert check_layer_rule(rule, Doubling(), (6,)) is None


@registered
class Halves(UniformQuantizer):
    """Right: a uniform quantizer of two bits."""

    def __init__(self, num_bits=2, granularity="channel"):
        super().__init__(num_bits, granularity)


@registered
class NoGradient(Halves):
    def __call__(self, weights, axes):
        return ops.stop_gradient(super().__call__(weights, axes))


@registered
class Offset(Halves):
    def __call__(self, weights, axes):
        return super().__call__(weights, axes) + 0.01


@registered
class TooMany(Halves):
    def __call__(self, weights, axes):
        return UniformQuantizer(8)(weights, axes)


@registered
class Shrinks(Halves):
    def __call__(self, weights, axes):
        return 0.9 * super().__call__(weights, axes)


@registered
class DividesByZero(Quantizer):
    def __call__(self, weights, axes):
        return weights / ops.sign(weights) * ops.sign(weights)


@registered
class Flat(Quantizer):
    def __call__(self, weights, axes):
        return ops.reshape(weights, (-1,))


def test_a_right_quantizer_passes():
    assert check_quantizer(Halves()) is None


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (NoGradient(), "lets no useful gradient through: 100% of the weights"),
        (Offset(), "Offset moves 128 zeros: pruned weights would come back"),
        (TooMany(), r"num_bits=2 gives a channel \d+ different values, more than 4"),
        (Shrinks(), r"Shrinks rounds what is rounded already, by up to 0\.\d+"),
        (DividesByZero(), "DividesByZero gives NaN or infinity"),
        (Flat(), r"of shape \(24, 16\) must have their shape.*got float32 \(384,\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_wrong_quantizer_is_found(quantizer, message):
    with pytest.raises(AssertionError, match=message):
        check_quantizer(quantizer)
