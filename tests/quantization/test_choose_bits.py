"""Bits by a solver: the least harm within the limits, and never more than greedily."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import InvalidArgumentError, calibrate, choose_bits, mixed_precision
from tfcompress.core.graph import trace
from tfcompress.quantization.calibration.choose_bits import _Trial
from tfcompress.quantization.calibration.fisher import fisher
from tfcompress.quantization.calibration.mixed_precision import layers_by_path
from tfcompress.quantization.calibration.program import Limit, fits, greedy, solved
from tfcompress.quantization.wrapper import QuantizedLayer

WIDTHS = (2, 4, 8)


def tables(generator, count=5):
    """Returns harm that falls with the bits, and two costs that rise with them."""
    names = [f"layer{i}" for i in range(count)]
    harm = {
        n: dict(zip(WIDTHS, [*np.sort(generator.exponential(size=2))[::-1], 0.0]))
        for n in names
    }
    costs = [
        {n: {b: b * size for b in WIDTHS} for n, size in zip(names, sizes)}
        for sizes in generator.integers(1, 50, (2, count))
    ]
    full = [sum(row[8] for row in cost.values()) for cost in costs]
    limits = [
        Limit(f"cost {i}", c, 0.55 * f) for i, (c, f) in enumerate(zip(costs, full))
    ]
    return harm, limits


def total(harm, bits):
    return sum(harm[name][width] for name, width in bits.items())


def test_the_program_is_solved_as_by_trying_everything():
    generator, better = np.random.default_rng(0), 0
    for _ in range(20):
        harm, limits = tables(generator)
        every = [
            dict(zip(harm, choice)) for choice in itertools.product(WIDTHS, repeat=5)
        ]
        least = min(total(harm, bits) for bits in every if fits(limits, bits))
        found, step_by_step = solved(harm, limits), greedy(harm, limits)
        assert fits(limits, found)
        np.testing.assert_allclose(total(harm, found), least, rtol=1e-6)
        assert fits(limits, step_by_step)
        better += total(harm, step_by_step) > 1.01 * least
    assert better >= 5


def test_what_no_choice_fits_has_no_answer():
    harm, limits = tables(np.random.default_rng(0))
    hopeless = [Limit("bytes", limits[0].costs, 1.0)]
    assert solved(harm, hopeless) is None
    assert greedy(harm, hopeless) is None


def test_the_fisher_matrix_of_a_softmax_is_the_formula():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation="softmax", name="head")]
    )
    x = np.random.default_rng(0).normal(size=(2048, 4)).astype("float32")
    graph = trace(calibrate(model, x[:64], correct_bias=False))
    (found,) = fisher(graph, [x], 8, 0, True).values()
    p = model.predict(x, verbose=0)
    expected = np.einsum("ni,no->io", x**2, p * (1 - p)) / len(x)
    np.testing.assert_allclose(found, expected, rtol=0.25)
    np.testing.assert_allclose(found.sum(), expected.sum(), rtol=0.05)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    deep = [layers.Dense(12 + 4 * i, "relu", name=f"d{i}") for i in range(4)]
    return keras.Sequential([keras.Input((16,)), *deep, layers.Dense(4, name="head")])


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(64, 16)).astype("float32")


def test_it_never_changes_the_outputs_more_than_mixed_precision(model, x):
    aware = calibrate(model, x, correct_bias=False)
    groups = layers_by_path(model, aware)
    trial = _Trial(aware, groups, x)
    for most in (1000, 1200, 1400):
        changes = []
        for scheme in (
            mixed_precision(model, x, most),
            choose_bits(model, x, most, widths=(4, 8)),
        ):
            bits = {k.strip("^$"): int(v[1]) for k, v in scheme.items()}
            changes.append(trial.change(bits))
        assert changes[1] <= changes[0] * (1 + 1e-6)


def test_the_result_is_a_scheme_within_its_limits(model, x):
    shape = {
        n: model.get_layer(n).kernel.shape for n in ("d0", "d1", "d2", "d3", "head")
    }
    most = 8 * 5 * sum(a * b for a, b in shape.values())
    scheme = choose_bits(model, x, max_bops=most)
    bits = {key.strip("^$"): int(value[1]) for key, value in scheme.items()}
    assert sum(8 * bits[n] * a * b for n, (a, b) in shape.items()) <= most
    assert len(set(bits.values())) > 1
    aware = calibrate(model, x, scheme)
    assert sum(isinstance(one, QuantizedLayer) for one in aware.layers) == 5
    times = {name: {8: 2.0, 4: 1.0} for name in shape}
    scheme = choose_bits(model, x, max_latency=8, latency=times, widths=(4, 8))
    assert [*scheme.values()].count("w4a8") == 2


def test_errors_say_what_is_missing(model, x):
    with pytest.raises(InvalidArgumentError, match="there is none"):
        choose_bits(model, x)
    with pytest.raises(InvalidArgumentError, match="go together"):
        choose_bits(model, x, max_latency=1.0)
    with pytest.raises(
        InvalidArgumentError, match=r"max_bytes=10\. Expected: at least"
    ):
        choose_bits(model, x, 10)
    with pytest.raises(InvalidArgumentError, match="some of 2, 4 and 8"):
        choose_bits(model, x, 1000, widths=(3, 8))
    with pytest.raises(InvalidArgumentError, match="every layer at every width"):
        choose_bits(model, x, max_latency=8, latency={"d0": {8: 1.0}})
