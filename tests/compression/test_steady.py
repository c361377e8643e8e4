"""Figures are measured until they stand still, and say how far off they may be."""

import dataclasses

import numpy as np
import pytest

from tfcompress.compression.budget import Budget
from tfcompress.compression.steady import steady


def counted(values):
    """Returns a measurement that gives these, and the list of what it gave."""
    given = []

    def measure():
        given.append(values[len(given)])
        return given[-1]

    return measure, given


def test_equal_figures_are_measured_six_times():
    measure, given = counted([0.5] * 18)
    assert steady(measure) == (0.5, 0.0)
    assert len(given) == 6


def test_figures_that_differ_are_measured_again():
    noise = np.random.default_rng(0).normal(1.0, 0.2, 18)
    measure, given = counted(noise.tolist())
    value, error = steady(measure)
    assert len(given) == 18
    assert error > 0.02 * value
    assert abs(value - 1.0) < error


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.1])
def test_the_error_holds_in_most_cases(spread):
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        value, error = steady(lambda: float(rng.normal(1.0, spread)))
        held += abs(value - 1.0) <= max(error, 0.02)
    assert held > 0.9 * 300


def test_a_latency_near_its_limit_is_not_called_met_without_a_word(result):
    limit = result.best.measures.latency_ms * 1.02
    budget = Budget(max_latency_ms=limit)
    measures = dataclasses.replace(result.best.measures, latency_error=0.05 * limit)
    best = dataclasses.replace(result.best, measures=measures)
    near = dataclasses.replace(result, best=best, budget=budget)
    assert "too near to the limit" in str(near)
    clear = dataclasses.replace(measures, latency_error=0.001 * limit)
    best = dataclasses.replace(result.best, measures=clear)
    assert "too near" not in str(dataclasses.replace(near, best=best))


def test_a_missed_budget_ends_with_what_would_be_met(result):
    smallest = min(c.measures.packed_bytes for c in result.candidates)
    missed = dataclasses.replace(
        result,
        met=False,
        misses=("packed_bytes",),
        budget=Budget(max_packed_bytes=smallest // 2, max_metric_drop=1.0),
    )
    last = str(missed).splitlines()[-1]
    assert last.startswith("Would be met: `max_packed_bytes=")
    named = int(float(last.partition("=")[2].partition("`")[0]))
    assert smallest <= named <= 1.01 * smallest
