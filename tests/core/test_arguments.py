"""One mistake is told in one way, whatever argument it was made in."""

import numpy as np
import pytest

import tfcompress
from tfcompress.core.arguments import integer, number, one_of, pattern
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.schedules import checked_step


@pytest.mark.parametrize("value", [np.int64(3), np.int8(3), 3])
def test_whole_numbers_become_python_s_own(value):
    assert type(integer(value, "Bad.", low=1)) is int
    assert type(number(value, "Bad.", "[0, 4]")) is float


@pytest.mark.parametrize("value", [True, "3", 3.0, None, [3], np.array([3])])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(InvalidArgumentError, match=r"Bad\. .*an int in \[1, 4\]"):
        integer(value, "Bad.", 1, 4)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (1, -0.1, float("nan"))),
        ("(0, inf)", (1e-9, 1e9), (0, float("inf"), float("nan"))),
        ("[0, inf)", (0,), (-1, float("inf"))),
    ],
)
def test_ends_of_intervals(interval, inside, outside):
    for value in inside:
        assert number(value, "Bad.", interval) == value
    for value in outside:
        with pytest.raises(InvalidArgumentError, match="a number in "):
            number(value, "Bad.", interval)


def test_choices_are_listed():
    with pytest.raises(InvalidArgumentError, match="Expected: one of 1, 2, 3"):
        one_of([1], "Bad.", (1, 2, 3))


def test_true_is_not_one_and_one_is_not_true():
    assert one_of(1, "Bad.", (1, 2)) == 1
    assert one_of(False, "Bad.", (True, False)) is False
    for value, choices in ((True, (1, 2)), (1, (True, False)), (0, (False,))):
        with pytest.raises(InvalidArgumentError, match=r"Bad\."):
            one_of(value, "Bad.", choices)


@pytest.mark.parametrize("value", ["(", "*", 3, b"conv", None])
def test_what_is_no_regular_expression_is_refused_with_the_reason(value):
    with pytest.raises(InvalidArgumentError, match=r"^Bad \(.+\)\. Received: "):
        pattern(value, "Bad")


def test_steps_and_fractions_of_a_fit():
    assert (checked_step("end_step", np.int64(7)), checked_step("x", 0.5)) == (7, 0.5)
    for value in (-1, -0.5, 1.5, True, "7", float("nan")):
        with pytest.raises(InvalidArgumentError, match="`end_step` must be"):
            checked_step("end_step", value)


@pytest.mark.parametrize(
    "make",
    [
        lambda value: tfcompress.ConstantSparsity(0.5, frequency=value),
        lambda value: tfcompress.UniformQuantizer(value),
        lambda value: tfcompress.LearnedStepQuantizer(value),
        lambda value: tfcompress.FreezeQuantization(value),
        lambda value: tfcompress.CompressionLogger(value),
        lambda value: tfcompress.NOfM(value, 4),
    ],
)
def test_booleans_are_no_numbers(make):
    with pytest.raises(InvalidArgumentError, match="Received: True"):
        make(True)
