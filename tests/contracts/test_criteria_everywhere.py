"""One list of criteria: each is usable wherever there is what it needs, or refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfcompress import PruneChannels, PruneWeights, shrink
from tfcompress.compression import Recipe
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.pruning.criteria import CRITERIA, NEEDS, Criterion, GradientCriterion

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = X.sum(-1, keepdims=True)


def model():
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(16, name="hidden"), layers.BatchNormalization()]
    made = keras.Sequential([keras.Input((4,)), *hidden, layers.Dense(1, name="head")])
    made.compile("sgd", "mse")
    return made


def stage(text):
    return Recipe.from_text(f"tfcompress: 1\nstages:\n- {text}\n- fit: {{epochs: 1}}\n")


# How each use is asked for a criterion, and what a criterion may need there.
USES = {
    "PruneWeights": (lambda name: PruneWeights(0.5, name), set(NEEDS)),
    "PruneChannels": (
        lambda name: PruneChannels(0.5, name),
        {"weights", "batch_norm"},
    ),
    "shrink": (
        lambda name: shrink(model(), 0.5, criterion=name, data=(X, Y)),
        {"weights", "batch_norm", "gradients"},
    ),
    "the stage prune": (
        lambda name: stage(f"prune: {{sparsity: 0.5, criterion: {name}}}"),
        {"weights", "gradients", "training"},
    ),
    "the stage shrink": (
        lambda name: stage(f"shrink: {{macs: 0.5, criterion: {name}}}"),
        {"weights", "batch_norm"},
    ),
}


@pytest.fixture
def mine():
    """Two criteria that a user registers, and takes back."""
    before = dict(CRITERIA._classes)

    @CRITERIA.register("last_column")
    class LastColumn(Criterion):
        def score(self, weights):
            columns = ops.arange(weights.shape[-1], dtype="float32")
            return ops.broadcast_to(columns, weights.shape)

    @CRITERIA.register("steepest")
    class Steepest(GradientCriterion):
        needs = "gradients"

        def measure(self, weights, gradient):
            return ops.abs(gradient)

    yield
    CRITERIA._classes.clear()
    CRITERIA._classes.update(before)


def check(use, name):
    ask, available = USES[use]
    needs = CRITERIA.class_of(name).needs
    if needs in available:
        ask(name)
        return
    with pytest.raises(InvalidArgumentError) as refused:
        ask(name)
    assert NEEDS[needs] in str(refused.value)
    assert "lamp" in str(refused.value)  # what fits is listed
    assert name in str(refused.value)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", CRITERIA.spellings())
def test_a_criterion_is_taken_where_its_needs_are_met(use, name):
    check(use, name)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["last_column", "steepest"])
def test_so_is_one_that_a_user_registers(use, name):
    check(use, name)


@pytest.mark.usefixtures("mine")
def test_what_a_user_registers_ranks():
    whole = model()
    kernel = whole.get_layer("hidden").kernel.numpy()
    smaller = shrink(whole, 0.5, criterion="last_column").get_layer("hidden")
    np.testing.assert_array_equal(smaller.kernel, kernel[:, 8:])

    # The loss does not see what the head does not read.
    head = whole.get_layer("head")
    read = np.arange(16) < 8  # the other half than what the last columns are
    head.kernel.assign(head.kernel.numpy() * read[:, None])
    smaller = shrink(whole, 0.5, criterion="steepest", data=(X, Y)).get_layer("hidden")
    np.testing.assert_array_equal(smaller.kernel, kernel[:, read])


@pytest.mark.parametrize("use", USES)
def test_an_unknown_name_lists_what_fits(use):
    with pytest.raises(InvalidArgumentError, match=r"'nothing'.*magnitude"):
        USES[use][0]("nothing")


def test_a_config_is_as_good_as_a_name():
    config = keras.saving.serialize_keras_object(CRITERIA.get("lamp"))
    one = shrink(model(), 0.5, criterion=config).get_layer("hidden").kernel
    two = shrink(model(), 0.5, criterion="lamp").get_layer("hidden").kernel
    np.testing.assert_array_equal(one, two)
