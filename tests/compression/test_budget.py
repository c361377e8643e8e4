"""Budgets: how limits are written, and when one is passed."""

import dataclasses

import pytest

from tfcompress import Budget
from tfcompress.compression import Measures
from tfcompress.core.errors import InvalidArgumentError

BASELINE = Measures(metric=0.9, bytes=1000, packed_bytes=800, latency_ms=2.0)


@pytest.mark.parametrize(
    ("written", "meant"),
    [(250, 250), ("250 kB", 250_000), ("1.5MB", 1_500_000), ("2KiB", 2048), ("7", 7)],
)
def test_sizes_are_numbers_or_text(written, meant):
    assert Budget(max_bytes=written).max_bytes == meant


def test_milliseconds_may_have_their_unit():
    assert Budget(max_latency_ms="2.5 ms").max_latency_ms == 2.5


def test_shares_are_of_the_baseline_and_of_its_bytes_before_packing():
    budget = Budget("50%", "10%", "25%", 0.01).relative_to(BASELINE)
    assert (budget.max_bytes, budget.max_packed_bytes) == (500, 100)
    assert (budget.max_latency_ms, budget.max_metric_drop) == (0.5, 0.01)


@pytest.mark.parametrize("better", [True, False])
def test_the_drop_is_counted_in_the_direction_that_is_worse(better):
    budget = Budget(max_metric_drop=0.1)
    change = -1 if better else 1

    def excess(by):
        worse = Measures(0.9 + change * by, 1, 1, 1.0)
        return budget.excess(worse, BASELINE, better)["max_metric_drop"]

    assert excess(0.05) < 0 == excess(0.1) < excess(0.2)
    assert excess(-0.3) < 0  # an improvement


def test_every_limit_counts_as_a_share_of_itself():
    over = Measures(0.9, bytes=1500, packed_bytes=100, latency_ms=3.0)
    budget = Budget(max_bytes=1000, max_packed_bytes=200, max_latency_ms=2.0)
    assert budget.excess(over, BASELINE, True) == {
        "max_packed_bytes": -0.5,
        "max_bytes": 0.5,
        "max_latency_ms": 0.5,
    }


def test_what_is_to_become_small_is_what_is_limited():
    assert Budget(max_latency_ms=1).cost == "latency_ms"
    assert Budget(max_metric_drop=0.1).cost == "packed_bytes"
    assert Budget(max_metric_drop=0.1).costs == ()


def test_limits_of_an_npu():
    budget = Budget(max_cycles="50%", max_sram="2 kB", npu="Ethos-U55-128")
    assert (budget.npu, budget.target, budget.cost) == ("u55-128", "ethos_u", "cycles")
    assert budget.costs == ("cycles", "sram")
    baseline = dataclasses.replace(BASELINE, cycles=4000, sram=1000)
    assert budget.limits(baseline) == {"max_cycles": 2000, "max_sram": 2000}
    assert budget.excess(baseline, baseline, True) == {
        "max_cycles": 1.0,
        "max_sram": -0.5,
    }
    assert Budget(max_cycles="1500", npu="u85-128").max_cycles == 1500


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({}, "limits nothing"),
        ({"max_bytes": 0}, "`max_bytes` is out of its range. Received: 0"),
        ({"max_bytes": -3}, "Received: -3"),
        ({"max_bytes": True}, "Received: True"),
        ({"max_bytes": float("nan")}, "Received: nan"),
        ({"max_bytes": "12 bananas"}, "such as '250 kB'"),
        ({"max_packed_bytes": "0%"}, "Received: '0%'"),
        ({"max_packed_bytes": "120%"}, "Received: '120%'"),
        ({"max_latency_ms": "3 kB"}, "share of the baseline's such as '25%'"),
        ({"max_latency_ms": float("inf")}, "Received: inf"),
        ({"max_cycles": "3 kB", "npu": "u55-64"}, "Received: '3 kB'"),
        ({"max_cycles": 1.5, "npu": "u55-64"}, "has no halves. Received: 1.5"),
        ({"max_cycles": "1.5", "npu": "u55-64"}, "has no halves. Received: '1.5'"),
        ({"max_bytes": 0.3}, "has no halves"),
        ({"max_cycles": 0, "npu": "u55-64"}, "`max_cycles` is out of its range"),
        ({"max_sram": 1000}, "`max_sram` is a limit of an NPU"),
        ({"max_cycles": 1000, "npu": "u55-65"}, "'u55-64'"),
        ({"npu": "u55-64"}, "The budget limits nothing. Received"),
        ({"max_metric_drop": -0.1}, "how much worse the metric may be"),
        ({"max_metric_drop": "1%"}, "in units of the metric"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits, text):
    with pytest.raises(InvalidArgumentError, match="Received") as caught:
        Budget(**limits)
    assert text in str(caught.value)
