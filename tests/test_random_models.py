"""Random models from the whole layer table; benchmarks/random_models.py runs 2 000."""

import keras
import pytest

from tests import random_checks
from tests.random_models import LAYERS, LEFT_OUT, random_model

pytestmark = pytest.mark.filterwarnings(
    # Masks that reach layers which do not know them, as Keras says while drawing.
    "ignore:Layer .* was passed an input with a mask:UserWarning",
    "ignore::tfcompress.CompressionWarning",
)


COUNT, IN_ONE_TEST = 100, 10


def _layer_classes():
    every = (getattr(keras.layers, name) for name in dir(keras.layers))
    return {one for one in every if isinstance(one, type)}


def test_every_layer_of_keras_is_drawn_or_left_out_with_a_reason():
    known = {getattr(keras.layers, name) for name in (*LAYERS, *LEFT_OUT)}
    assert {one.__name__ for one in _layer_classes() - known} == set()
    assert not set(LAYERS) & set(LEFT_OUT)


def test_a_seed_is_a_model():
    first, second = random_model(3), random_model(3)
    assert [layer.name for layer in first.layers] == [
        layer.name for layer in second.layers
    ]
    for one, other in zip(first.get_weights(), second.get_weights()):
        assert (one == other).all()


@pytest.mark.export
@pytest.mark.parametrize("start", range(0, COUNT, IN_ONE_TEST))
def test_integers_are_equal_or_refused_by_name(start):
    wrong = {}
    for seed in range(start, start + IN_ONE_TEST):
        outcome, detail = random_checks.check_integers(random_model(seed, steps=2))
        if outcome not in random_checks.RIGHT:
            wrong[seed] = outcome, detail
    assert wrong == {}
