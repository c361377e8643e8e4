"""Every row of TFMOT's own unit tests gives the same here, or differs by design."""

import keras
import numpy as np
import pytest

from tests.oracle import tfmot_cases as cases
from tfcompress import (
    Block,
    ClusterWeights,
    ConstantSparsity,
    InvalidArgumentError,
    NOfM,
    PolynomialSparsity,
)
from tfcompress.clustering.codebooks import SharedKernel
from tfcompress.clustering.starts import STARTS, codebook, nearest
from tfcompress.layers import Kernel, rule_of
from tfcompress.pruning.masks import layer_masks

KERNEL = Kernel("kernel")


class Own(keras.layers.Layer):
    """A layer that nothing is known of."""


class OwnReshape(keras.layers.Reshape):
    """A layer of a known kind, without weights."""


class OwnDense(keras.layers.Dense):
    """A layer of a known kind."""


LAYERS = {
    "Dense": lambda: keras.layers.Dense(10),
    "Conv2D": lambda: keras.layers.Conv2D(10, 5),
    "Dropout": lambda: keras.layers.Dropout(0.5),
    "ConvLSTM2D": lambda: keras.layers.ConvLSTM2D(2, (5, 5)),
    "LSTM": lambda: keras.layers.LSTM(10),
    "GRU": lambda: keras.layers.GRU(10),
    "SimpleRNN": lambda: keras.layers.SimpleRNN(10),
    "Own": Own,
    "OwnReshape": lambda: OwnReshape((7, 1)),
    "OwnDense": lambda: OwnDense(10),
}


def accepted(make):
    try:
        make()
    except InvalidArgumentError:
        return False
    return True


def schedules(begin, end, frequency):
    yield lambda: ConstantSparsity(0.5, begin, end, frequency)
    yield lambda: PolynomialSparsity(0.2, 0.8, begin, end, 3, frequency)


def rows(table):
    return [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(table)]


@pytest.mark.parametrize(("test", "steps", "answer"), rows(cases.STEPS))
def test_steps(test, steps, answer):
    assert [accepted(make) for make in schedules(*steps)] == [answer] * 2


@pytest.mark.parametrize(("test", "value", "answer"), rows(cases.SPARSITIES))
def test_sparsities(test, value, answer):
    assert accepted(lambda: ConstantSparsity(value, 0)) == answer
    assert accepted(lambda: PolynomialSparsity(value, 0.8, 0, 10)) == answer
    assert accepted(lambda: PolynomialSparsity(0.2, value, 0, 10)) == answer


@pytest.mark.parametrize(
    ("test", "begin", "end", "frequency", "step", "due"), rows(cases.DUE)
)
def test_due(test, begin, end, frequency, step, due):
    found = [make().is_due(step) for make in schedules(begin, end, frequency)]
    assert found == [due] * 2


@pytest.mark.parametrize(
    ("test", "arguments", "step", "due", "sparsity"), rows(cases.CONSTANT)
)
def test_constant(test, arguments, step, due, sparsity):
    schedule = ConstantSparsity(*arguments)
    assert (schedule.is_due(step), schedule(step)) == (due, sparsity)


@pytest.mark.parametrize(
    ("test", "arguments", "step", "sparsity"), rows(cases.POLYNOMIAL)
)
def test_polynomial(test, arguments, step, sparsity):
    found = PolynomialSparsity(*arguments)(step)
    # TFMOT's row compares within 1e-6 of the value, too.
    np.testing.assert_allclose(found, sparsity, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("test", "kind", "arguments"), rows(cases.SERIALIZED))
def test_serialized(test, kind, arguments):
    kinds = {"constant": ConstantSparsity, "polynomial": PolynomialSparsity}
    schedule = kinds[kind](*arguments)
    again = kinds[kind].from_config(schedule.get_config())
    assert vars(again) == vars(schedule)


def mask_of(weights, sparsity):
    scores = np.abs(np.array(weights, "float32"))
    (mask,) = layer_masks([scores], np.float32(sparsity))
    return np.asarray(mask).astype(int)


@pytest.mark.parametrize(("test", "weights", "sparsity", "mask"), rows(cases.MASKS))
def test_masks(test, weights, sparsity, mask):
    assert mask_of(weights, sparsity).tolist() == mask


@pytest.mark.parametrize(
    ("test", "weights", "sparsities", "left"), rows(cases.MASKS_IN_A_ROW)
)
def test_masks_in_a_row(test, weights, sparsities, left):
    values = np.array(weights, "float32")
    found = []
    for sparsity in sparsities:
        values = values * mask_of(values, sparsity)
        found.append(int(np.count_nonzero(values)))
    assert found == left


def pattern_mask(pattern, weights, sparsity):
    """Returns the mask of a pattern, or None if it does not fit."""
    weights = np.abs(np.array(weights, "float32"))
    if weights.size == 0 or pattern.misfit(weights.shape, KERNEL):
        return None
    (units,) = layer_masks(
        [pattern.reduce(keras.ops.convert_to_tensor(weights), KERNEL)], sparsity
    )
    mask = pattern.expand(units, weights.shape, KERNEL)
    return keras.ops.convert_to_numpy(mask).astype(int)


@pytest.mark.parametrize(("test", "block", "weights", "mask"), rows(cases.BLOCKS))
def test_blocks(test, block, weights, mask):
    if mask is None:
        # The kernel of a Conv1D with one input channel has no blocks of two.
        weights = np.swapaxes(np.array(weights), 0, 1)
    found = pattern_mask(Block(block), weights, 0.5)
    assert (found if found is None else found.tolist()) == mask


@pytest.mark.parametrize(("test", "weights", "m", "n", "mask"), rows(cases.N_OF_M))
def test_n_of_m(test, weights, m, n, mask):
    found = pattern_mask(NOfM(n, m), np.transpose(weights), 1 - n / m)
    assert (found if found is None else found.T.tolist()) == mask


def is_2_of_4(weights):
    """Whether a mask of 2:4 takes nothing away."""
    kernel = np.transpose(np.array(weights))
    mask = pattern_mask(NOfM(2, 4), kernel, 0.5)
    return mask is not None and bool(np.all(kernel * mask == kernel))


@pytest.mark.parametrize(("test", "weights", "answer"), rows(cases.IS_2_OF_4))
def test_is_2_of_4(test, weights, answer):
    assert is_2_of_4(weights) == answer


@pytest.mark.parametrize(("test", "start", "answer"), rows(cases.STARTS))
def test_starts(test, start, answer):
    assert accepted(lambda: ClusterWeights(4, start)) == answer


def error(weights, values):
    values = np.sort(np.array(values, "float32"))
    return float(np.sum(np.square(weights - values[nearest(weights, values)])))


@pytest.mark.parametrize(
    ("test", "start", "weights", "count", "theirs"), rows(cases.CODEBOOKS)
)
def test_codebooks(test, start, weights, count, theirs):
    weights = np.array(weights, "float32")
    found = codebook(weights, count, start)
    assert len(found) == count == len(theirs)
    # k-means makes what it starts from no worse.
    assert error(weights, found) <= error(
        weights, STARTS[start](np.sort(weights), count)
    )
    if start == "density":
        assert error(weights, found) <= error(weights, theirs)


def shared(codes, count):
    """Returns a kernel whose weights are values; ours count from 1, 0 is zero."""
    codes = np.array(codes)
    kernel = keras.Variable(np.ones(codes.shape, "float32"))
    return SharedKernel(kernel, codes + 1, count)


@pytest.mark.parametrize(("test", "how", "codes", "wanted"), rows(cases.GRADIENTS))
def test_gradients(test, how, codes, wanted):
    kernel = shared(codes, 2)
    found = kernel.sums(keras.ops.ones(kernel.size))
    if how == "mean":
        members = keras.ops.cast(kernel.members, "float32")
        found = found / keras.ops.maximum(members, 1)
    assert keras.ops.convert_to_numpy(found).tolist() == wanted


@pytest.mark.parametrize(("test", "values", "codes", "weights"), rows(cases.LOOKUPS))
def test_lookups(test, values, codes, weights):
    found = shared(codes, len(values)).expand(keras.ops.array(values, "float32"))
    assert keras.ops.convert_to_numpy(found).tolist() == weights


def is_known(name):
    rule = rule_of(LAYERS[name]())
    # Layers of which no more is known than what they multiply are not known.
    return rule is not None and bool(rule.kernels or rule.flow != "float")


@pytest.mark.parametrize(("test", "layer", "answer"), rows(cases.LAYERS))
def test_layers(test, layer, answer):
    assert is_known(layer) == answer


@pytest.mark.parametrize(("test", "number", "answer"), rows(cases.NUMBERS))
def test_numbers(test, number, answer):
    assert accepted(lambda: ClusterWeights(number)) == answer


@pytest.mark.parametrize(("test", "number", "start"), rows(cases.AT_MOST))
def test_at_most_so_many_values(test, number, start, rng):
    values = codebook(rng.normal(size=(10, 32)).astype("float32"), number, start)
    assert 1 < len(values) <= number


@pytest.mark.parametrize(("test", "values", "answer"), rows(cases.NEAREST))
def test_nearest(test, values, answer, rng):
    weights = rng.uniform(-0.5, 0.5, (2, 8)).astype("float32")
    mean, spread = weights.mean(), np.ptp(weights)
    kernel = shared(np.zeros((2, 8), int), 2)
    kernel.train_members(weights)
    kernel.join_nearest(
        keras.ops.array([a * mean + b * spread for a, b in values], "float32")
    )
    codes = keras.ops.convert_to_numpy(kernel.codes)
    assert np.unique(codes).tolist() == [answer + 1]


def ours(question, about):
    """Returns our answer to what a row of BY_DESIGN asks."""
    if question == "steps":
        (answer,) = {accepted(make) for make in schedules(*about)}
        return answer
    if question == "block":
        return Block((2, 2)).misfit(about, KERNEL) is None
    if question == "2 of 4":
        return is_2_of_4(np.zeros(about))
    if question == "start":
        return accepted(lambda: ClusterWeights(4, about))
    if question == "layer":
        return is_known(about)
    if question == "number":
        return accepted(lambda: ClusterWeights(about))
    if question == "quantile":
        # Half of [1, 2, 6, 7] lies below 4: that is where its two groups part.
        assert codebook(np.array([1.0, 2.0, 6.0, 7.0]), 2, "density").tolist() == [
            *(1.5, 6.5)
        ]
        return "exact"
    assert question == "codebooks"
    weights = np.array(cases.CODEBOOKS[0][2], "float32")
    found = codebook(weights, 3, about)
    started = np.sort(STARTS[about](np.sort(weights), 3))
    return "start" if np.allclose(started, found, atol=1e-6) else "k-means"


@pytest.mark.parametrize(
    ("test", "question", "theirs", "wanted", "why"), rows(cases.BY_DESIGN)
)
def test_by_design(test, question, theirs, wanted, why):
    assert theirs != wanted
    assert ours(*question) == wanted
    assert why
