"""Random layers draw what the epoch says."""

import keras
import pytest

from tfcompress import Distiller, SeedEachEpoch
from tfcompress.core.errors import InvalidArgumentError


def model():
    inner = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.5)]
    )
    return keras.Sequential([keras.Input((6,)), inner, keras.layers.Dense(2)])


def states(model, epoch, seed=3):
    callback = SeedEachEpoch(seed)
    callback.set_model(model)
    callback.on_epoch_begin(epoch)
    variables = [v for v in model.variables if "seed_generator" in v.path]
    return [variable.numpy().tolist() for variable in variables]


def test_states_depend_on_seed_epoch_and_place_alone():
    one, two = model(), model()
    assert len(states(one, 0)) == 2
    found = [states(one, epoch) for epoch in (0, 1, 1000)]
    assert found == [states(two, epoch) for epoch in (0, 1, 1000)]
    assert [[seed for seed, _ in epoch] for epoch in found] == [[3, 4]] * 3
    counters = [epoch[0][1] for epoch in found]
    # So many draws lie between two epochs.
    assert min(abs(a - b) for a in counters for b in counters if a != b) > 1e6
    assert states(one, 0, seed=4) != found[0]


def test_the_student_of_a_distiller():
    teacher = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    distiller = Distiller(teacher, model(), keras.distillation.LogitsDistillation(2.0))
    assert len(states(distiller, 1)) == 2


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_bad_seeds(seed):
    with pytest.raises(InvalidArgumentError, match="int >= 0"):
        SeedEachEpoch(seed)
