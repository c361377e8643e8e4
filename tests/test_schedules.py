"""Schedules: values, update steps, fractions of a fit, and errors."""

import math

import keras
import pytest
from keras import ops

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.schedules import (
    SCHEDULES,
    AlternatingSparsity,
    ConstantSparsity,
    CosineSparsity,
    FitSpan,
    MagnitudeThreshold,
    OneCycleSparsity,
    PolynomialSparsity,
)

SPAN = FitSpan(0, 99)


def due_steps(schedule, last=200):
    return [step for step in range(last) if schedule.is_due(step)]


def test_polynomial_follows_the_formula():
    schedule = PolynomialSparsity(0.2, 0.9, begin_step=10, end_step=50, power=3)
    for step in (0, 10, 17, 33, 50, 90):
        progress = min(max((step - 10) / 40, 0), 1)
        expected = 0.9 + (0.2 - 0.9) * (1 - progress) ** 3
        assert schedule(step) == pytest.approx(expected, abs=1e-6)


def test_cosine_follows_the_formula():
    schedule = CosineSparsity(0.2, 0.9, begin_step=10, end_step=50)
    for step in (0, 10, 17, 33, 50, 90):
        progress = min(max((step - 10) / 40, 0), 1)
        expected = 0.9 + (0.2 - 0.9) * (1 + math.cos(math.pi * progress)) / 2
        assert schedule(step) == pytest.approx(expected, abs=1e-6)


def test_one_cycle_follows_the_formula():
    schedule = OneCycleSparsity(0.2, 0.9, begin_step=10, end_step=50)

    def curve(t):
        return 1 / (1 + math.exp(5 - 14 * t))

    for step in (0, 10, 17, 33, 50, 90):
        progress = min(max((step - 10) / 40, 0), 1)
        share = (curve(progress) - curve(0)) / (curve(1) - curve(0))
        assert schedule(step) == pytest.approx(0.2 + 0.7 * share, abs=1e-6)


def test_threshold_rises_linearly_and_is_told_as_such():
    schedule = MagnitudeThreshold(0.5, 0, 50, frequency=10)
    assert [schedule(step) for step in (0, 25, 50, 70)] == [0.0, 0.25, 0.5, 0.5]
    assert schedule.describe(SPAN).endswith("final threshold 0.5 at step 50")


@pytest.mark.parametrize("threshold", [-0.1, "0.1", None, True])
def test_threshold_must_be_a_number(threshold):
    with pytest.raises(InvalidArgumentError, match="must not be negative"):
        MagnitudeThreshold(threshold)


def test_value_is_a_float_for_an_int_and_a_tensor_else():
    schedule = PolynomialSparsity(0.0, 0.5, 0, 10, power=1)
    assert schedule(5) == 0.25
    assert isinstance(schedule(5), float)
    tensor = schedule(ops.array(5))
    assert float(tensor) == 0.25
    assert ops.is_tensor(tensor)


def test_updates_fall_on_the_frequency_and_on_the_end():
    schedule = PolynomialSparsity(0.0, 0.5, begin_step=5, end_step=18, frequency=4)
    assert due_steps(schedule) == [5, 9, 13, 17, 18]


def test_constant_goes_on_to_the_end_unless_told():
    assert due_steps(ConstantSparsity(0.5, 0, frequency=60), 200) == [0, 60, 120, 180]
    assert due_steps(ConstantSparsity(0.5, 0, 50, frequency=60), 200) == [0, 50]


@pytest.mark.parametrize(
    ("begin", "end", "resolved"),
    [
        (0.0, None, (0, 74)),
        (0.25, 0.5, (25, 50)),
        (10, 20, (10, 20)),
        (5, 1.0, (5, 99)),
    ],
)
def test_fractions_become_steps_of_the_fit(begin, end, resolved):
    schedule = PolynomialSparsity(0.0, 0.5, begin, end).resolve(SPAN)
    assert (schedule.begin_step, schedule.end_step) == resolved


def test_fractions_count_from_the_first_step_of_the_fit():
    schedule = PolynomialSparsity(0.0, 0.5, 0.0, 0.5).resolve(FitSpan(1000, 1100))
    assert (schedule.begin_step, schedule.end_step) == (1000, 1050)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (PolynomialSparsity(0.0, 0.5, 0, 100), "ends at step 99"),
        (ConstantSparsity(0.5, 100), "ends at step 99"),
        (PolynomialSparsity(0.0, 0.5, 80), "would end before it begins"),
    ],
)
def test_a_fit_too_short_is_an_error(schedule, message):
    with pytest.raises(InvalidArgumentError, match=message):
        schedule.resolve(SPAN)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, 80, True, "0.5", None])
def test_sparsity_must_be_a_fraction(sparsity):
    with pytest.raises(InvalidArgumentError, match=r"target_sparsity.*\[0, 1\)"):
        ConstantSparsity(sparsity)
    with pytest.raises(InvalidArgumentError, match=r"final_sparsity.*\[0, 1\)"):
        PolynomialSparsity(0.0, sparsity)


@pytest.mark.parametrize(("begin", "end"), [(10, 10), (10, 5), (0.5, 0.25)])
def test_end_must_follow_begin(begin, end):
    with pytest.raises(InvalidArgumentError, match="must end after it begins"):
        PolynomialSparsity(0.0, 0.5, begin, end)


def test_a_float_step_above_one_says_how_to_write_it():
    with pytest.raises(InvalidArgumentError, match="write 2000 without"):
        PolynomialSparsity(0.0, 0.5, end_step=2000.0)


@pytest.mark.parametrize("step", [-1, -0.5, "3", None, True])
def test_begin_must_be_a_step(step):
    with pytest.raises(InvalidArgumentError, match="begin_step"):
        ConstantSparsity(0.5, begin_step=step)


@pytest.mark.parametrize("frequency", [0, -1, 1.5, "often"])
def test_frequency_must_be_positive(frequency):
    with pytest.raises(InvalidArgumentError, match="frequency"):
        ConstantSparsity(0.5, frequency=frequency)


def test_power_must_be_positive():
    with pytest.raises(InvalidArgumentError, match="power"):
        PolynomialSparsity(0.0, 0.5, power=0)


def test_fractions_need_a_fit_before_they_mean_a_step():
    with pytest.raises(InvalidArgumentError, match="does not know the fit yet"):
        PolynomialSparsity(0.0, 0.5)(10)


def test_description_names_the_updates_and_the_end():
    plan = PolynomialSparsity(0.0, 0.8, 0, 75, frequency=10).resolve(SPAN)
    assert plan.describe(SPAN) == (
        "9 updates at steps 0, 10, 20, ..., 70, 75; final sparsity 0.8 at step 75"
    )


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantSparsity(0.5, 3, 9, 2),
        PolynomialSparsity(0.1, 0.5, 0.1, 0.9, 2, 7),
        CosineSparsity(0.1, 0.5, 0.1, 0.9, 7),
        OneCycleSparsity(0.1, 0.5, 10, None, 7),
        MagnitudeThreshold(0.1, 0.25),
    ],
)
def test_config_round_trip(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = SCHEDULES.get(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()


def test_each_phase_of_an_alternating_schedule_begins_with_an_update():
    for last in range(40, 400, 7):
        span = FitSpan(0, last)
        schedule = AlternatingSparsity(0.9, 3, 0, 1.0).resolve(span)
        values = [schedule(step) for step in schedule.update_steps(span) if step < last]
        assert values == [0.9, 0.0, 0.9, 0.0, 0.9]
        assert schedule.final == 0.9
        between = set(range(last)) - set(schedule.update_steps(span))
        assert not any(schedule.is_due(step) for step in between)


def test_an_alternating_schedule_needs_room():
    with pytest.raises(InvalidArgumentError, match="too short for the phases"):
        AlternatingSparsity(0.9, 4, 0, 1.0).resolve(FitSpan(0, 40))
    with pytest.raises(InvalidArgumentError, match="`phases` is a number"):
        AlternatingSparsity(0.9, 1)
